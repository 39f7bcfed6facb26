import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sh } from '../lib/sh.ts'
import { until } from '../lib/wait.ts'
import { find, parseXml } from '../lib/xml.ts'
import { sweep } from './agent/processes.ts'
import { candidate } from './agent/promote.ts'
import { AGENT, type Given, World } from './agent/world.ts'

const home = mkdtempSync(join(tmpdir(), 'pgcm-agent-'))

test('both shells can read it, and shellcheck finds nothing', async () => {
  for (const argv of [['dash', '-n'], ['bash', '-n'], ['shellcheck']]) await sh([...argv, AGENT])
})

test('it is short: 600 lines of 120 characters, indented by tabs', () => {
  const lines = readFileSync(AGENT, 'utf8').trimEnd().split('\n')
  assert.ok(lines.length <= 600, `it has ${lines.length} lines`)
  for (const wrong of [/^ +\t/, /^.{121}/])
    assert.equal(
      lines.filter((line) => wrong.test(line)),
      [],
    )
})

test('an action is at most 40 lines', () => {
  const functions = readFileSync(AGENT, 'utf8').match(/^\w+\(\) \{\n.*?^\}$/gms) ?? []
  assert.ok(functions.length > 30, `${functions.length} functions`)
  assert.equal(
    functions.filter((text) => text.split('\n').length > 40),
    [],
  )
})

const metaData = async () =>
  (await sh(['dash', AGENT, 'meta-data'], { env: { PATH: process.env.PATH } })).stdout

test('its meta-data is the golden one', async () => {
  const golden = fileURLToPath(new URL('fixtures/agent-meta-data.xml', import.meta.url))
  const printed = await metaData()
  if (process.env.PGCM_TEST_GOLDEN === '1') writeFileSync(golden, printed)
  assert.fixture(printed, readFileSync(golden, 'utf8'))
})

test('its meta-data is as the standard has it', async () => {
  const agent = parseXml((await metaData()).replace(/<!DOCTYPE.*\n/, ''), 'resource-agent')
  assert.is(Object.keys(agent.children).join(' '), 'version longdesc shortdesc parameters actions')
  const parameters = find(agent, 'parameters', 'parameter')
  assert.ok(parameters.length > 0 && parameters.length <= 14, `${parameters.length} parameters`)
  for (const { attributes, children } of parameters) {
    assert.match(attributes.name ?? '', /^[a-z_]+$/)
    assert.is(Object.keys(children).join(' '), 'longdesc shortdesc content')
    const content = children.content?.[0]?.attributes
    assert.match(content?.type ?? '', /^(string|integer|boolean)$/)
    assert.type(content?.default, 'string', `${attributes.name} has no default`)
  }
  const actions = find(agent, 'actions', 'action').map(({ attributes }) => attributes)
  const names = 'demote meta-data monitor monitor notify promote start stop validate-all'
  const found = actions.map(({ name }) => name).sort()
  assert.is(found.join(' '), names)
  for (const { timeout } of actions) assert.match(timeout ?? '', /^\d+s$/)
  const monitors = actions.filter(({ name }) => name === 'monitor')
  assert.is(monitors.map(({ role }) => role).join(' '), 'Unpromoted Promoted')
  assert.is(new Set(monitors.map(({ interval }) => interval)).size, 2, 'roles need different intervals')
})

/** Schemas of others: Pacemaker's own comes with release 3.0, and an older one has nothing to try. */
const SCHEMAS: Record<string, string> = { 'resource-agents': '/usr/share/resource-agents/metadata.rng' }
const pacemaker = spawnSync('crm_simulate', ['--version'], { encoding: 'utf8' }).stdout?.split('\n')[0] ?? ''
if (/^Pacemaker [12]\./.test(pacemaker)) console.log(`# ${pacemaker} has no schema for agents`)
else SCHEMAS.Pacemaker = '/usr/share/pacemaker/api/ocf-ra-1.1.rng'
for (const [whose, schema] of Object.entries(SCHEMAS)) {
  test(`its meta-data passes the schema of ${whose}`, async () => {
    assert.ok(existsSync(schema), `no ${schema}: apt install pacemaker-cli-utils`)
    await sh(['xmllint', '--noout', '--nonet', '--relaxng', schema, '-'], { input: await metaData() })
  })
}

/** A world that is gone when the story is told. */
const story = async (given: Given, tell: (world: World) => Promise<void>) => {
  const world = await World.make(given, home)
  try {
    await tell(world)
  } finally {
    world.destroy()
  }
}

test('a node that was started beside a primary votes, is elected and promoted', () =>
  story({ promoted: { pg02: 10 }, history: [10], attributes: { 'status@pg02': 'PRI' } }, async (world) => {
    const steps = ['start', 'monitor', 'notify pre-promote pg01', 'promote', 'monitor', 'stop', 'probe']
    const codes: number[] = []
    for (const step of steps) {
      codes.push((await world.run(step)).code)
      if (step.startsWith('notify')) world.write('attrs/Postgresql-vote@pg03', '17:10:1000')
      if (step === 'promote') world.write('state', 'primary pg03:streaming:sync')
    }
    assert.equal(codes, [0, 0, 0, 0, 8, 0, 7], world.log.join('\n'))
    assert.is(world.read('tmp/PGSQL.lock'), '17')
  }))

test('a monitor that finds nothing new runs few programs and writes nothing', () =>
  story({ processes: 'postmaster', state: 'standby streaming 10' }, async (world) => {
    await world.run('monitor')
    world.write('log', '')
    assert.is((await world.run('monitor', 'dash', true)).code, 0)
    const programs = world.log.map((line) => line.split(' ')[0] as string)
    assert.ok(programs.length <= 4, programs.join())
    assert.ok(!programs.includes('attrd_updater'), programs.join())
  }))

/** Pids of what the agent still does after it has answered, in that world. */
const stillAtWork = (world: World) =>
  readdirSync('/proc').filter((pid) => {
    try {
      return (
        readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`HA_RSCTMP=${world.path('run')}\0`) &&
        readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(AGENT)
      )
    } catch {
      return false // no process, or one that has ended
    }
  })

test('a promotion is told to pgcm-supervise at once, and to Pacemaker a moment later', () =>
  story({ ...candidate, twist: (world) => world.write('poke', 'nothing yet') }, async (world) => {
    assert.is((await world.run('promote')).code, 0)
    assert.match(world.read('run/pgcm-Postgresql/promoted'), /^\d+ 00000000000003E8 17$/)
    assert.is(statSync(world.path('run/pgcm-Postgresql/promoted')).mode & 0o777, 0o644)
    assert.is(statSync(world.path('run/pgcm-Postgresql')).mode & 0o777, 0o755)
    assert.is(readFileSync(world.path('poke'), 'utf8'), '\n', 'the poke')
    await until('Pacemaker is told', { timeoutMs: 10_000 }, () => world.attributes['status@pg01'] === 'PRI')
  }))

test('what the standbys are is told to Pacemaker, then pgcm-supervise is woken; what nothing new was found of, to nobody', () =>
  story(
    {
      processes: 'postmaster',
      state: 'primary pg02:streaming:sync pg03:streaming:potential',
      twist: (world) => {
        world.write('poke', 'nothing yet')
        world.write('tmp/PGSQL.lock', '9')
      },
    },
    async (world) => {
      assert.is((await world.run('monitor')).code, 8)
      assert.is(world.attributes['status@pg01'], 'PRI')
      assert.is(readFileSync(world.path('poke'), 'utf8'), '\n', 'the poke')
      world.write('poke', 'nothing new')
      assert.is((await world.run('monitor')).code, 8)
      assert.match(readFileSync(world.path('poke'), 'utf8'), 'nothing new')
    },
  ))

test('a promotion that is taken back before Pacemaker was told is never told', () =>
  story(candidate, async (world) => {
    assert.is((await world.run('promote')).code, 0)
    rmSync(world.path('run/pgcm-Postgresql/promoted')) // as a demotion does
    await until('nobody is at work', { timeoutMs: 10_000 }, () => stillAtWork(world).length === 0)
    assert.is(world.attributes['status@pg01'], undefined)
  }))

test('a question to a PostgreSQL that hangs has a time-out of its own', () =>
  story({ processes: 'postmaster', state: 'standby streaming 10' }, async (world) => {
    await world.run('monitor')
    assert.match(world.log.join('\n'), /psql ask PGCONNECT_TIMEOUT=[1-5]\b/)
  }))

test('PostgreSQL can read what the agent writes, and nobody else can write it', () =>
  story({}, async (world) => {
    await world.run('start')
    assert.is(statSync(world.path('tmp')).mode & 0o777, 0o755)
    assert.is(statSync(world.path('tmp/replication.conf')).mode & 0o777, 0o640)
    assert.ok(world.log.some((line) => /^chown root:\S+ .*replication.conf.new$/.test(line)))
  }))

test('the agent calls no programs but those it is known to need', () =>
  story({ promoted: { pg02: 10 }, history: [10], attributes: { 'status@pg02': 'PRI' } }, async (world) => {
    for (const step of ['start', 'monitor', 'notify pre-promote pg01', 'promote', 'stop']) {
      const { stderr } = await world.run(step, 'dash', true)
      assert.not.match(stderr, /not found|No such file/)
      if (step.startsWith('notify')) world.write('attrs/Postgresql-vote@pg03', '17:10:1000')
    }
  }))

test.run()
process.on('exit', () => sweep(home))
