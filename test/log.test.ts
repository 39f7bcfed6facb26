import { stripVTControlCharacters } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { line, logger } from '../lib/log.ts'
import { until } from '../lib/wait.ts'

const at = new Date('2026-01-02T03:04:05.678Z')

test('a pipe gets JSON', () => {
  const fields = { node: 'pg01', elapsed: 3, error: new Error('no\nway'), none: undefined }
  assert.is(
    line('warn', 'etcd.put', fields, at, true),
    '{"ts":"2026-01-02T03:04:05.678Z","level":"warn","event":"etcd.put","node":"pg01","elapsed":3,"error":"no way"}',
  )
})

test('a person gets a short line', () => {
  const text = line('info', 'primary.seen', { node: 'pg01', why: 'two words' }, at, false)
  assert.is(stripVTControlCharacters(text), '03:04:05.678 primary.seen node=pg01 why="two words"')
})

test('the level hides what is below it', () => {
  const said: string[] = []
  const log = logger({ write: (text) => said.push(text) })
  log.debug('a')
  log.info('b')
  log.setLevel('error')
  log.warn('c')
  log.error('d')
  assert.equal(
    said.map((text) => JSON.parse(text).event),
    ['b', 'd'],
  )
})

test('a disturbance is over when it has not come up for a while', async () => {
  const said: string[] = []
  const log = logger({ write: (text) => said.push(text) }, { level: 'info' }, 20)
  const lasting = () => log.counts().map((each) => each.lasting)
  for (let i = 0; i < 3; i++) log.disturbance('api.stranger', { error: 'no call' })
  assert.equal(lasting(), [true])
  await until('it is over', { timeoutMs: 5000, everyMs: 5 }, () => lasting()[0] === false)
  assert.equal(
    said.map((text) => JSON.parse(text)).map(({ level, event }) => `${level} ${event}`),
    ['error api.stranger', 'info api.stranger.cleared'],
  )
})

test('a trouble is said once, and its end once', () => {
  const said: string[] = []
  const log = logger({ write: (text) => said.push(text) })
  log.cleared('etcd.down')
  for (let i = 0; i < 1000; i++) log.trouble('etcd.down', { error: 'refused' })
  log.cleared('etcd.down')
  log.cleared('etcd.down')
  assert.equal(
    said.map((text) => JSON.parse(text).event),
    ['etcd.down', 'etcd.down.cleared'],
  )
  assert.is(JSON.parse(said[1] ?? '').times, 1000)
})

test.run()
