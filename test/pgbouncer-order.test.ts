/**
 * A real PgBouncer, with its own defaults, moved from one real PostgreSQL to another: the naive order stalls or misleads
 * clients, ours does not.
 */
import pg from 'pg'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { log } from '../lib/log.ts'
import * as bouncer from '../lib/pgbouncer.ts'
import { now, sleep, until } from '../lib/wait.ts'
import { cutOff, missing, PgBouncerRig, whoAnswers } from './pgbouncer-rig.ts'

log.setLevel('error')
/** More than any part of this takes here, and far below the 15 s for which PgBouncer remembers a failed login. */
const STALL_MS = 4000

let made: Promise<PgBouncerRig> | undefined
const scenarios: [string, (rig: PgBouncerRig) => Promise<void>][] = []
const scenario = (name: string, body: (rig: PgBouncerRig) => Promise<void>) => scenarios.push([name, body])

/** One after the other on the same servers, each with a PgBouncer of its own; the last ends them. */
function runAll(): void {
  const why = missing()
  for (const [name, body] of scenarios)
    test(name, async () => {
      assert.is(why, undefined)
      made ??= PgBouncerRig.make()
      const rig = await made
      try {
        await rig.restart()
        await body(rig)
      } finally {
        if (name === scenarios.at(-1)?.[0]) await rig.destroy()
      }
    })
  test.run()
}

/** The naive way: each command on the console, whatever happens. */
async function say(rig: PgBouncerRig, ...commands: string[]): Promise<void> {
  const admin = await rig.admin()
  for (const command of commands) await admin.query(command)
  await admin.end()
}
const pause = (rig: PgBouncerRig, timeoutMs = 2000) => bouncer.pause(rig.console, { timeoutMs })
const loginsUnderWay = async (rig: PgBouncerRig) =>
  (await bouncer.overview(rig.console)).pools.reduce((sum, pool) => sum + pool.serversLogin, 0)

/** A client whose server connection is being made and does not come about. */
async function loginInFlight(rig: PgBouncerRig): Promise<{ answer: Promise<string> }> {
  rig.gates.old.shut()
  const answer = rig.client().then(whoAnswers)
  await until(
    'a login is under way',
    { timeoutMs: 3000, everyMs: 5 },
    async () => (await loginsUnderWay(rig)) > 0,
  )
  return { answer }
}

/** What it gives, or `stalled`. */
const soon = (answer: Promise<string>) =>
  Promise.race([answer, sleep(STALL_MS).then(() => 'stalled')]).catch((error) => `error: ${error.message}`)

/** A client that comes while clients are held. */
async function newcomer(rig: PgBouncerRig): Promise<{ answer: Promise<string> }> {
  const answer = rig.client().then(whoAnswers)
  answer.catch(() => {})
  const waits = async () =>
    (await bouncer.overview(rig.console)).pools.some(({ clientsWaiting }) => clientsWaiting > 0)
  await until('it waits', { timeoutMs: 3000, everyMs: 5 }, waits)
  return { answer }
}

scenario('naive: PAUSE of the database, new host, new client, RESUME: clients stall', async (rig) => {
  assert.is(await whoAnswers(await rig.client()), 'old')
  await say(rig, 'PAUSE app')
  rig.write('new')
  await say(rig, 'RELOAD')
  const { answer } = await newcomer(rig)
  await say(rig, 'RESUME app')
  assert.is(await soon(answer), 'stalled')
})

scenario('ours: they are served by the new host at once', async (rig) => {
  const client = await rig.client()
  assert.is(await whoAnswers(client), 'old')
  await pause(rig)
  rig.write('new')
  await say(rig, 'RELOAD')
  const { answer } = await newcomer(rig)
  await bouncer.resume(rig.console)
  assert.equal([await soon(answer), await soon(whoAnswers(client))], ['new', 'new'])
})

scenario('naive: a PAUSE that meets a login in flight: clients stall', async (rig) => {
  const { answer: first } = await loginInFlight(rig)
  await say(rig, 'PAUSE')
  rig.gates.old.open()
  rig.write('new')
  await say(rig, 'RELOAD')
  const { answer: second } = await newcomer(rig)
  await say(rig, 'RESUME')
  assert.equal(await Promise.all([soon(first), soon(second)]), ['stalled', 'stalled'])
})

scenario('ours: the pause waits for that login, and nobody stalls', async (rig) => {
  const { answer: first } = await loginInFlight(rig)
  let held = false
  const pausing = pause(rig).then(() => {
    held = true
  })
  await sleep(100)
  assert.not(held)
  rig.gates.old.open()
  await pausing
  assert.is(await soon(first), 'old') // before the pause, that is
  rig.write('new')
  await say(rig, 'RELOAD')
  const { answer: second } = await newcomer(rig)
  await bouncer.resume(rig.console)
  assert.is(await soon(second), 'new')
})

scenario(
  'ours: a login that never ends keeps the pause from beginning, and clients from being held',
  async (rig) => {
    const held = await rig.client().then((client) => whoAnswers(client).then(() => client))
    await held.query('BEGIN') // has the only server connection
    const { answer: first } = await loginInFlight(rig)
    const error = await pause(rig, 200).then(
      () => undefined,
      (error) => error as Error,
    )
    assert.match(error?.message ?? '', 'no server login is under way')
    assert.is(await whoAnswers(held), 'old')
    rig.gates.old.open()
    assert.is(await soon(first), 'old')
    await held.query('COMMIT')
  },
)

scenario('ours: open transactions are named, lose nothing, and nobody stays held', async (rig) => {
  const [busy, other] = [await rig.client(), await rig.client()]
  await busy.query('BEGIN')
  const error = await pause(rig, 300).then(
    () => undefined,
    (error) => error as bouncer.PauseBlocked,
  )
  assert.instance(error, bouncer.PauseBlocked)
  assert.equal(
    error?.blockers.map(({ database, state }) => [database, state]),
    [['app', 'in transaction']],
  )
  assert.is(await soon(whoAnswers(other)), 'old')
  assert.is((await busy.query('COMMIT')).command, 'COMMIT')
})

scenario('the resume tells how long the client that waited longest had waited', async (rig) => {
  await whoAnswers(await rig.client())
  await pause(rig)
  const began = now()
  const { answer } = await newcomer(rig)
  await sleep(200)
  const stallMs = await bouncer.resume(rig.console)
  assert.ok(stallMs >= 150 && stallMs <= now() - began + 50, `${stallMs} ms`)
  assert.is(await soon(answer), 'old')
  assert.is(await bouncer.resume(rig.console), 0)
})

scenario(
  'the connection that is kept may break: what was asked on it is asked again on a new one',
  async (rig) => {
    const ask = () => bouncer.showDatabases(rig.console)
    const [first] = await ask()
    await rig.restart() // and its end is heard of
    assert.equal((await ask())[0], first)
    rig.replace()
    assert.equal((await ask())[0], first)
    rig.replace()
    assert.is(await bouncer.resume(rig.console), 0)
    let asked = 0
    await bouncer
      .session(rig.console, async (query) => {
        asked += 1
        await query('SHOW VERSION')
        rig.replace()
        await query('SHOW VERSION')
      })
      .then(
        () => assert.unreachable('it was asked on a dead connection'),
        () => assert.is(asked, 1, 'what has begun is not begun again'),
      )
  },
)

scenario('two connections are kept, one to wait on and one to act on: neither has to log in', async (rig) => {
  const both = () =>
    bouncer.session(rig.console, (one) =>
      bouncer.session(rig.console, async (other) => {
        await Promise.all([one('SHOW VERSION'), other('SHOW VERSION')])
      }),
    )
  const { connect } = pg.Client.prototype
  let logins = 0
  pg.Client.prototype.connect = function (this: pg.Client, ...words: unknown[]) {
    logins += 1
    return Reflect.apply(connect, this, words)
  } as typeof connect
  try {
    await both()
    assert.ok(logins > 0)
    logins = 0
    await both()
    assert.is(logins, 0)
  } finally {
    pg.Client.prototype.connect = connect
  }
})

scenario('a finished PAUSE outlives its console, and SHOW DATABASES does not tell it', async (rig) => {
  await say(rig, 'PAUSE')
  const { answer } = await newcomer(rig)
  assert.not((await bouncer.showDatabases(rig.console)).some(({ paused }) => paused))
  assert.is(await Promise.race([answer, sleep(300).then(() => 'held')]), 'held')
  await bouncer.resume(rig.console)
  assert.is(await soon(answer), 'old')
})

scenario('a waiting PAUSE outlives its console, too: only a RESUME ends it', async (rig) => {
  const busy: pg.Client = await rig.client()
  await busy.query('BEGIN')
  const admin = await rig.admin()
  admin.query('PAUSE').catch(() => {})
  const { answer: newcomers } = await newcomer(rig)
  cutOff(admin)
  await sleep(200)
  assert.is(await Promise.race([newcomers, sleep(300).then(() => 'held')]), 'held')
  await bouncer.resume(rig.console)
  assert.is(await soon(newcomers), 'old')
  await busy.query('COMMIT')
})

runAll()
