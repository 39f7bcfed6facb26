import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { dropStragglers, pause, type Query } from '../lib/pgbouncer.ts'
import { pooler } from './pooler.ts'

test('only clients that hang on the former primary, where their database has left it, are cut off', async () => {
  const asked: string[] = []
  const answers: Record<string, Record<string, string | number>[]> = {
    'SHOW DATABASES': [
      { name: 'app', host: '10.0.0.2' },
      { name: 'app_ro', host: '10.0.0.1,10.0.0.3' },
      { name: 'reports', host: '10.0.0.2' },
      { name: 'elsewhere', host: 'db.example.com' },
      { name: 'here', host: '/var/run/postgresql' },
    ],
    'SHOW SERVERS': [
      { database: 'app', addr: '10.0.0.1', link: 'c1' },
      { database: 'app', addr: '10.0.0.1', link: '' },
      { database: 'app', addr: '10.0.0.2', link: 'c2' },
      { database: 'app_ro', addr: '10.0.0.3', link: 'c3' },
      { database: 'app_ro', addr: '10.0.0.2', link: 'c4' },
      { database: 'reports', addr: '10.0.0.1', link: 'c8' },
      { database: 'elsewhere', addr: '10.0.0.1', link: 'c5' },
      { database: 'here', addr: 'unix', link: 'c6' },
      { database: 'gone', addr: '10.0.0.1', link: 'c7' },
    ],
    'SHOW CLIENTS': [1, 2, 3, 4, 5, 6, 7, 8].map((id) => ({ ptr: `c${id}`, id })),
  }
  const query: Query = async (text) => {
    asked.push(text)
    return answers[text] ?? []
  }
  assert.is(await dropStragglers(query, new Set(['10.0.0.1'])), 2)
  assert.equal(
    asked.filter((text) => text.startsWith('KILL')),
    ['KILL_CLIENT 1', 'KILL_CLIENT 8'],
  )
})

test('a PgBouncer that cannot cut clients off has cut off none', async () => {
  const old: Query = async (text) => {
    if (text === 'SHOW DATABASES') return [{ name: 'app', host: '10.0.0.2' }]
    if (text === 'SHOW SERVERS') return [{ database: 'app', addr: '10.0.0.1', link: 'c1' }]
    if (text === 'SHOW CLIENTS') return [{ ptr: 'c1' }] // before 1.24 a client has no id
    throw new Error(`unexpected: ${text}`)
  }
  assert.is(await dropStragglers(old, new Set(['10.0.0.1'])), 0)
})

test('a caller that goes away during the last look at the pools pauses nobody', async () => {
  const { state, port, close } = await pooler('/nonexistent')
  const stop = new AbortController()
  const { said } = state
  said.push = (query) => {
    if (query === 'SHOW POOLS') stop.abort()
    said[said.length] = query
    return said.length
  }
  const console = {
    host: '127.0.0.1',
    port,
    user: 'a',
    password: '',
    database: 'pgbouncer',
    timeoutMs: 20_000,
  }
  const error = await pause(console, { timeoutMs: 20_000, signal: stop.signal }).catch((error) => error)
  close()
  assert.is(error?.message, 'PAUSE was stopped')
  assert.equal(said, ['SHOW POOLS'])
})

test.run()
