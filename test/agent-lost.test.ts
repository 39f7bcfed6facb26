import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sh } from '../lib/sh.ts'
import { until } from '../lib/wait.ts'
import { kill } from './agent/processes.ts'
import { NODES, programs, Rig } from './agent/rig.ts'
import { historyFile } from './agent/world.ts'

const { bindir } = programs()
const rigs: Rig[] = []
process.on('exit', () => {
  for (const rig of rigs) rig.destroy()
})
const DONE = { code: 0, reason: '' }

async function cluster(): Promise<Rig> {
  const rig = await Rig.make(bindir)
  rigs.push(rig)
  await rig.agents(NODES, 'start')
  assert.equal(await rig.elect('pg01'), DONE)
  await rig.standsWithin(10_000, 'PRI HS:sync HS:potential')
  await rig.sql('pg01', "CREATE TABLE kept (t text); INSERT INTO kept VALUES ('a')")
  return rig
}

/** Review 1: replay is slow (here: made to wait) on a standby that has restarted. What it holds is more than what it has replayed. */
test('a standby that has not replayed its own WAL yet does not vote with less than it holds', async () => {
  const rig = await cluster()
  assert.equal(await rig.agent('pg03', 'stop'), DONE) // down for maintenance
  appendFileSync(rig.path('pg02', 'postgresql.conf'), "recovery_min_apply_delay = '1h'\n")
  kill(rig.postmaster('pg02'), 'SIGHUP')
  await until(
    'pg02 has read it',
    { timeoutMs: 5000 },
    async () => (await rig.sql('pg02', 'SHOW recovery_min_apply_delay')) === '1h',
  )
  await rig.sql('pg01', "INSERT INTO kept VALUES ('acknowledged')") // by pg02: it is the only standby
  await rig.crash('pg02') // and starts again: this is all that happens to it
  assert.equal(await rig.agent('pg02', 'start'), DONE)
  await rig.crash('pg01') // the loss of one machine
  rig.lose('pg01')
  assert.equal(await rig.agent('pg03', 'start'), DONE)
  const outcome = await rig.elect('pg03', ['pg02', 'pg03'])
  const rows = outcome.code === 0 ? await rig.sql('pg03', 'SELECT t FROM kept') : ''
  assert.is.not(outcome.code, 0, `pg03 is primary with: ${rows.replace(/\n/g, ', ')}`)
})

/** Review 2: the promotion's result was lost (DC died), so Pacemaker notifies and promotes again. */
test('a promotion that is asked for again finds its primary, and calls no new epoch', async () => {
  const rig = await cluster()
  await rig.agents(NODES, 'notify pre-promote pg01')
  const again = await rig.agent('pg01', 'promote')
  assert.equal(again, DONE)
})

/** Review 3: a planned move is called off after the candidate has called; later its PostgreSQL restarts. */
test('a call that came to nothing does not keep its candidate away from the primary that stayed', async () => {
  const rig = await cluster()
  await rig.agents(['pg02'], 'notify pre-demote pg02') // and the transition is called off
  assert.equal(await rig.agent('pg02', 'stop'), DONE)
  assert.equal(await rig.agent('pg02', 'start'), DONE)
  await rig.agents(NODES, 'notify post-start')
  await rig.standsWithin(15_000, 'PRI HS:sync HS:potential').catch(async (error) => {
    const monitors = await Promise.all(NODES.map((node) => rig.agent(node, 'monitor')))
    throw new Error(
      `${error.message}; ${JSON.stringify(monitors)} promise ${readFileSync(rig.path('pg02', 'tmp/promise'), 'utf8')}`,
    )
  })
})

/** Review 1b: the startup process is frozen while it waits for WAL, so that it looks calm; the WAL receiver acknowledges all the same. */
test('a standby whose startup process is frozen does not vote with less than it has acknowledged', async () => {
  const rig = await cluster()
  assert.equal(await rig.agent('pg03', 'stop'), DONE)
  const startup = Number(
    await rig.sql('pg02', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"),
  )
  kill(startup, 'SIGSTOP')
  await rig.sql('pg01', "INSERT INTO kept VALUES ('acknowledged')")
  await rig.crash('pg01')
  rig.lose('pg01')
  await until(
    'pg02 receives nothing',
    { timeoutMs: 5000 },
    async () => (await rig.sql('pg02', 'SELECT count(*) FROM pg_stat_wal_receiver')) === '0',
  )
  assert.equal(await rig.agent('pg03', 'start'), DONE)
  const outcome = await rig.elect('pg03', ['pg02', 'pg03'])
  const rows = outcome.code === 0 ? await rig.sql('pg03', 'SELECT t FROM kept') : ''
  kill(startup, 'SIGCONT')
  // It fetched the row from pg02, or it is no primary.
  if (outcome.code === 0) assert.match(rows, 'acknowledged')
})

/** Review 5: the attribute daemon of a voter was restarted, and has forgotten the vote. */
test('a vote that the attribute daemon forgot is told again', async () => {
  const rig = await cluster()
  await rig.crash('pg01')
  rig.lose('pg01')
  await rig.agents(['pg02', 'pg03'], 'notify pre-promote pg02')
  rmSync(join(rig.dir, 'attrs/Postgresql-vote@pg03'))
  const reasons: string[] = []
  for (let turn = 0; turn < 4; turn++) {
    const { code, reason } = await rig.elect('pg02', ['pg02', 'pg03'])
    if (code === 0) return
    reasons.push(reason)
    await rig.agent('pg02', 'stop') // as Pacemaker recovers from a failed promotion
    await rig.agent('pg02', 'start')
  }
  assert.unreachable(reasons.join('\n'))
})

/** Seen where a standby was stopped just as it had begun to stream a new timeline, whose primary died: PostgreSQL prefers that file. */
test('a standby that has the WAL of its checkpoint in part only keeps nobody waiting', async () => {
  const rig = await cluster()
  await rig.sql('pg01', 'SELECT pg_switch_wal()')
  await rig.sql('pg01', "INSERT INTO kept SELECT repeat('x', 100) FROM generate_series(1, 10000)")
  const asked = `SELECT pg_walfile_name(pg_current_wal_lsn()) || ' ' || pg_current_wal_flush_lsn()`
  await rig.sql('pg01', 'CHECKPOINT')
  const [segment = '', end = ''] = (await rig.sql('pg01', asked)).split(' ')
  const replayed = `SELECT pg_last_wal_replay_lsn() >= '${end}'`
  await until(
    'pg03 has replayed',
    { timeoutMs: 10_000 },
    async () => (await rig.sql('pg03', replayed)) === 't',
  )
  await rig.sql('pg03', 'CHECKPOINT')
  assert.equal(await rig.agent('pg03', 'stop'), DONE)
  await rig.crash('pg01')
  rig.lose('pg01')
  const timeline = Number.parseInt(segment.slice(0, 8), 16)
  const history = (number: number) => rig.path('pg03', historyFile(number))
  for (let number = timeline + 1; number < timeline + 8; number++)
    writeFileSync(history(number), '# pgcm placeholder\n')
  const newer = history(timeline + 8)
  writeFileSync(newer, `${timeline}\t${end}\tno recovery target specified\n`)
  const whole = readFileSync(join(dirname(newer), segment))
  const begun = Buffer.concat([whole.subarray(0, 16_384), Buffer.alloc(whole.length - 16_384)])
  writeFileSync(newer.replace('.history', segment.slice(8)), begun)
  await sh(['chown', '-R', 'postgres:', dirname(newer)])
  assert.equal(await rig.agent('pg03', 'start'), DONE)
  const answer = await rig.sql('pg03', 'SELECT 1').catch(({ stderr }) => stderr)
  assert.match(answer, 'the database system is starting up')
  assert.equal(await rig.agent('pg03', 'monitor'), DONE)
})

/** Review 6 (since "On the way to a new primary the CPU is the primary's"): the call is withdrawn by a monitor only. */
test('a primary that is demoted before its first monitor is elected again at once', async () => {
  const rig = await Rig.make(bindir)
  rigs.push(rig)
  await rig.agents(NODES, 'start')
  assert.equal(await rig.elect('pg01'), DONE)
  assert.equal(await rig.agent('pg01', 'demote'), DONE)
  assert.equal(await rig.agent('pg01', 'start'), DONE)
  assert.equal(await rig.elect('pg01'), DONE)
})

test.run()
