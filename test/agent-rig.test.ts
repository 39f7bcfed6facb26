import { existsSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now, since, until } from '../lib/wait.ts'
import { kill } from './agent/processes.ts'
import { NODES, programs, Rig } from './agent/rig.ts'

const { bindir, missing } = programs()
let rig: Rig
process.on('exit', () => rig?.destroy())

/** The tests follow each other: each finds the cluster as the one before has left it. */
const stories: [string, () => Promise<void>][] = [
  ["a link in PostgreSQL's directory leads root to no other file", linkedElsewhere],
  ['three clones start as standbys of nobody', threeClones],
  ['the first promotion makes an epoch of its class, synchronous from the first commit on', firstPromotion],
  ['a planned move loses nothing, and the old primary comes back once its lock file is gone', plannedMove],
  ['voters that were cut off acknowledge nothing more for an old primary that lives', oldPrimaryLives],
  ['a former primary with WAL that nobody has stays out until it was rewound', diverged],
  ['the primary crashes, and the next one fetches what only another standby holds', fetches],
  ['all lose power at once, and come back by themselves', powerLoss],
  ['a primary without its pid file, or under SIGSTOP, is never called stopped', neverCalledStopped],
  ['after a stop nothing runs, and no file is left that PostgreSQL could not read', allStop],
]

if (missing) {
  test('the agent with real PostgreSQL cannot be tried here', () =>
    console.log(`# SKIPPED: ${stories.length} tests of the agent with real PostgreSQL: ${missing}`))
} else {
  for (const [name, tell] of stories) test(name, tell)
}

const DONE = { code: 0, reason: '' }

const rows = (node: (typeof NODES)[number]) => rig.sql(node, "SELECT string_agg(t, ' ' ORDER BY t) FROM kept")
const lock = (node: (typeof NODES)[number]) => rig.path(node, 'tmp/PGSQL.lock')

async function linkedElsewhere() {
  rig = await Rig.make(bindir)
  const [elsewhere, link] = [join(rig.dir, 'elsewhere'), rig.path('pg01', 'data/standby.signal')]
  writeFileSync(elsewhere, 'of root', { mode: 0o600 })
  rmSync(link, { force: true })
  symlinkSync(elsewhere, link)
  const { code, reason } = await rig.agent('pg01', 'start')
  assert.equal([code, reason], [1, `cannot write ${link}`])
  assert.equal([readFileSync(elsewhere, 'utf8'), statSync(elsewhere).uid], ['of root', 0])
  rmSync(link)
}

async function threeClones() {
  assert.equal(await rig.agents(NODES, 'probe'), [7, 7, 7])
  assert.equal(await rig.agents(NODES, 'start'), [0, 0, 0])
  assert.equal(await rig.agents(NODES, 'probe'), [0, 0, 0])
  assert.is(await rig.statuses(), 'HS:alone HS:alone HS:alone')
}

async function firstPromotion() {
  assert.equal(await rig.elect('pg01'), DONE)
  await rig.sql('pg01', "CREATE TABLE kept (t text); INSERT INTO kept VALUES ('a')")
  assert.is(await rig.timeline('pg01'), 9)
  assert.is(readFileSync(lock('pg01'), 'utf8').trim(), '9')
  assert.is(await rig.sql('pg01', 'SHOW synchronous_standby_names'), 'FIRST 1 ("pg01", "pg02", "pg03")')
  await rig.standsWithin(5000, 'PRI HS:sync HS:potential')
}

async function plannedMove() {
  assert.equal(await rig.move('pg01', 'pg02'), DONE)
  await rig.sql('pg02', "INSERT INTO kept VALUES ('b')")
  assert.is(await rig.timeline('pg02'), 10)
  // pg_rewind reads a node's timeline from its last checkpoint; later on this one is to be rewound.
  await rig.sql('pg02', 'CHECKPOINT')
  await until('pg02 says PRI', { timeoutMs: 5000 }, () => rig.attribute('status', 'pg02') === 'PRI')
  const stays = await rig.agent('pg01', 'start')
  assert.is(stays.code, 4)
  assert.match(stays.reason, /was primary of epoch 9 and pg02 is primary now: run pgcm-rejoin on pg01/)
  rmSync(lock('pg01'))
  assert.equal(await rig.agent('pg01', 'start'), DONE)
  await rig.standsWithin(5000, 'HS:sync PRI HS:potential')
  await until('all have both rows', { timeoutMs: 5000 }, async () => {
    return (await Promise.all(NODES.map(rows))).every((found) => found === 'a b')
  })
}

/** pg02 is cut off from the cluster layer only: replication goes on until the voters leave, and it is never stopped. */
async function oldPrimaryLives() {
  rig.lose('pg02')
  // The candidate leaves last: pg02 goes on writing a record now and then, and whoever has one more wins.
  await rig.agents(['pg03'], 'notify pre-demote pg03')
  await rig.agents(['pg01'], 'notify pre-promote pg03')
  await rig.agents(['pg03'], 'notify pre-promote pg03')
  const client = rig.client('pg02', "INSERT INTO kept VALUES ('zombie') RETURNING 'acknowledged'")
  const waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
  await until('its commit waits', { timeoutMs: 5000 }, async () => (await rig.sql('pg02', waits)) === '1')
  assert.equal(await rig.agent('pg03', 'promote'), DONE)
  await rig.agents(['pg01', 'pg03'], 'notify post-promote pg03')
  await rig.sql('pg03', "INSERT INTO kept VALUES ('c')")
  assert.is(await rig.timeline('pg03'), 11)
  assert.is(await rig.sql('pg02', waits), '1')
  await rig.crash('pg02')
  assert.is.not(await client.code, 0)
  assert.is(client.output, '')
}

async function diverged() {
  assert.match((await rig.agent('pg02', 'start')).reason, /was primary of epoch 10 and pg03 is primary now/)
  rmSync(lock('pg02'))
  // Nobody took care: it starts, and finds out by itself.
  assert.equal(await rig.agent('pg02', 'start'), DONE)
  let seen = { code: 0, reason: '' }
  await until('it finds out', { timeoutMs: 10_000, everyMs: 200 }, async () => {
    seen = await rig.agent('pg02', 'monitor')
    return seen.code !== 0
  })
  assert.equal(seen, {
    code: 4,
    reason: "holds WAL that the primary's history has not: run pgcm-rejoin on pg02",
  })
  assert.equal(await rig.agent('pg02', 'stop'), DONE)
  await rig.rewind('pg02', 'pg03')
  assert.equal(await rig.agent('pg02', 'start'), DONE)
  await rig.standsWithin(5000, 'HS:sync HS:potential PRI')
  assert.is(await rows('pg02'), 'a b c')
}

/** pg02 lacks the last commit of pg03, and fetches it from pg01, which has it. */
async function fetches() {
  await rig.cutOff('pg02')
  await rig.sql('pg03', "INSERT INTO kept VALUES ('d')")
  await rig.crash('pg03')
  const monitored = await rig.agent('pg03', 'monitor')
  assert.is(monitored.code, 4)
  assert.match(monitored.reason, /was primary of epoch 11 and stopped/)
  assert.equal(await rig.agent('pg03', 'stop'), DONE)
  assert.is(await rows('pg02'), 'a b c')
  assert.equal(await rig.elect('pg02'), DONE)
  assert.is(await rows('pg02'), 'a b c d')
  await rig.sql('pg02', "INSERT INTO kept VALUES ('e')")
  assert.is(await rig.timeline('pg02'), 18)
  await rig.standsWithin(5000, 'HS:sync PRI STOP')
  assert.is(await rows('pg01'), 'a b c d e')
}

/** pg03 has slept for a timeline, which it cannot fetch as a candidate: its promotion fails, and names a better one. */
async function powerLoss() {
  await rig.powerLoss()
  assert.equal(await rig.agents(NODES, 'probe'), [7, 7, 7])
  assert.equal(await rig.agents(NODES, 'start'), [0, 0, 0])
  assert.is(await rig.statuses(), 'HS:alone HS:alone HS:alone')
  const first = await rig.elect('pg03')
  assert.is(first.code, 1)
  assert.match(first.reason, /pg0[12] holds more WAL than pg03/)
  const better = first.reason.startsWith('pg01') ? 'pg01' : 'pg02'
  assert.equal(await rig.elect(better), DONE)
  await rig.sql(better, "INSERT INTO kept VALUES ('f')")
  await rig.standsWithin(10_000, better === 'pg01' ? 'PRI HS:sync HS:potential' : 'HS:sync PRI HS:potential')
  await until('the last primary of before follows', { timeoutMs: 5000 }, async () => {
    return (await rows('pg03')) === 'a b c d e f'
  })
  await until('its lock file is gone', { timeoutMs: 5000 }, async () => {
    await rig.agent('pg03', 'monitor')
    return !existsSync(lock('pg03'))
  })
}

async function neverCalledStopped() {
  const frozen = rig.postmaster('pg03')
  kill(frozen, 'SIGSTOP')
  const asked = now()
  const seen = await rig.agent('pg03', 'monitor')
  assert.is(seen.code, 1)
  assert.ok(since(asked) < 10_000, `${since(asked)} ms`) // as long as Pacemaker gives a monitor
  assert.match(seen.reason, /does not answer/)
  assert.equal(await rig.agent('pg03', 'stop'), DONE)
  assert.equal(rig.processes('pg03'), [])

  rmSync(rig.path('pg02', 'data/postmaster.pid'))
  assert.is((await rig.agent('pg02', 'probe')).code, 1)
  assert.equal(await rig.agent('pg02', 'stop'), DONE)
  assert.equal(rig.processes('pg02'), [])
}

async function allStop() {
  assert.equal(await rig.agents(NODES, 'stop'), [0, 0, 0])
  assert.equal(
    NODES.flatMap((node) => rig.processes(node)),
    [],
  )
  assert.equal(await rig.agents(NODES, 'probe'), [7, 7, 7])
  // One would end every pg_rewind and pg_basebackup to come.
  assert.equal(await rig.strangeFiles(), [])
}

test.run()
