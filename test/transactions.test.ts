/** Real transactions of a real PostgreSQL, through a PgBouncer and past it. */
import pg from 'pg'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { log } from '../lib/log.ts'
import { isPrimary, session } from '../lib/postgres.ts'
import { olderThan, type Transaction, terminate } from '../lib/transactions.ts'
import { until } from '../lib/wait.ts'
import { missing, PgBouncerRig } from './pgbouncer-rig.ts'

log.setLevel('error')

test('long transactions are found, and exactly those that were chosen are ended', async () => {
  assert.is(missing(), undefined)
  const rig = await PgBouncerRig.make()
  const clients: pg.Client[] = []
  const connect = async (user: string) => {
    const { host, port, database } = rig.server('old')
    const client = new pg.Client({ host, port, database, user })
    client.on('error', () => {})
    clients.push(client)
    await client.connect()
    return client
  }
  try {
    const superuser = rig.server('old')
    await session(superuser, async (query) => {
      await query('CREATE ROLE pgcm LOGIN IN ROLE pg_monitor, pg_signal_backend')
      await query('CREATE ROLE app LOGIN')
    })
    const server = rig.server('old', 'pgcm') // with the rights that Ansible gives it
    assert.ok(await isPrimary(server))
    assert.equal(await olderThan(server, 0), [])

    const [first, second, idle, admin] = [
      await connect('app'),
      await connect('app'),
      await connect('app'),
      await connect('postgres'),
    ]
    for (const client of [first, second, admin]) await client.query('BEGIN')
    await idle.query('SELECT 1')
    let found: Transaction[] = []
    await until('all are older than 50 ms', { timeoutMs: 5000, everyMs: 10 }, async () => {
      found = await olderThan(server, 50)
      return found.length === 3
    })
    const of = (client: pg.Client) => {
      const one = found.find(({ pid }) => pid === (client as unknown as { processID: number }).processID)
      if (!one) throw new Error('it was not found')
      return one
    }
    assert.equal(
      [of(first).user, of(first).database, of(first).state],
      ['app', 'postgres', 'idle in transaction'],
    )
    assert.ok(of(first).ageMs >= of(second).ageMs && of(second).ageMs > 50)

    // The second begins another one before it is ended: that one is not what was chosen.
    await second.query('COMMIT')
    await second.query('BEGIN')
    const outcomes = await terminate(server, [of(first), of(second), { pid: 1, since: '1.5' }, of(admin)])
    assert.equal(
      outcomes.slice(0, 3).map(({ ended, error }) => [ended, error]),
      [
        [true, ''],
        [false, ''],
        [false, ''],
      ],
    )
    assert.not(outcomes[3]?.ended)
    assert.match(outcomes[3]?.error ?? '', /superuser/i)

    await until('the first is gone', { timeoutMs: 5000, everyMs: 10 }, async () =>
      (await olderThan(server, 0)).every(({ pid }) => pid !== of(first).pid),
    )
    assert.match(await first.query('SELECT 1').then(String, String), /terminat|ended|not queryable/)
    for (const client of [second, admin]) assert.is((await client.query('COMMIT')).command, 'COMMIT')
    assert.is((await idle.query('SELECT 1 AS one')).rows[0].one, 1)

    // What is no number goes into no statement.
    await terminate(server, [{ pid: 1, since: '1 OR true' }]).then(
      () => assert.unreachable(),
      (error) => assert.match(error.message, 'is no transaction'),
    )
  } finally {
    for (const client of clients) await client.end().catch(() => {})
    await rig.destroy()
  }
})

test.run()
