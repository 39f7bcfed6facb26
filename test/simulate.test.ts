import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stripVTControlCharacters as bare } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Io, report } from '../lib/cli.ts'
import { load } from '../lib/config.ts'
import { Failed, Refused } from '../lib/errors.ts'
import { doubleLosses, type Loss, loseCommand, lossText, singleLosses, standing } from '../lib/losses.ts'
import { type Finding, simulate, simulation } from '../lib/simulate.ts'
import { parseXml } from '../lib/xml.ts'
import { ban, fixture, instead, needTools, withBackupAddress, withConstraints } from './cibs.ts'

process.env.TMPDIR = mkdtempSync(join(tmpdir(), 'pgcm-losses-')) // others simulate as well
process.on('exit', () => rmSync(tmpdir(), { recursive: true }))

const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const healthy = fixture('trixie-healthy') // pg03 is primary, pg01 sync, pg02 potential
const ask = async (cib: string) => {
  await needTools()
  return simulate(cib, names, AbortSignal.timeout(240_000))
}
const brief = (findings: Finding[]) =>
  findings.map(({ lost, constraints }) => `${lost.map(lossText).join(' + ')}: ${constraints.join(' ')}`)

test('a rule that has one machine in mind is found', async () => {
  const rule =
    '<rsc_location id="home" rsc="msPostgresql"><rule id="home-rule" role="Promoted" score="-INFINITY">' +
    '<expression id="home-node" attribute="#uname" operation="ne" value="pg03"/></rule></rsc_location>'
  const { findings } = await ask(withConstraints(healthy, rule))
  assert.equal(brief(findings), ['machine pg03: home', 'Postgresql on pg03 for good: home'])
})

test('an address that keeps the primary away from the standby it follows is found, as in 2017', async () => {
  const { findings } = await ask(withBackupAddress(healthy, 'pg01'))
  assert.ok(brief(findings).includes('machine pg03 + Postgresql on pg02 for good: backup-not-on-primary'))
})

test('a standby that catches up counts, for the agent gives it a score once the primary is gone; no fencing is no reason', async () => {
  const late = instead(
    healthy,
    /name="master-Postgresql" value="100"/,
    'name="master-Postgresql" value="-INFINITY"',
  )
  const none = instead(late, /<nvpair [^>]*name="master-Postgresql" value="10"\/>/, '')
  const { findings, simulated } = await ask(
    instead(none, 'stonith-enabled" value="true"', 'stonith-enabled" value="false"'),
  )
  assert.equal([findings, simulated], [[], 51])
})

test('a stopped former primary is no standby: what the other two cannot bear is shown, and no constraint blamed', async () => {
  const { stopped, findings } = await ask(fixture('trixie-former-primary-stopped'))
  assert.equal(stopped, ['pg01'])
  assert.equal(brief(findings), [
    'machine pg02 + Postgresql on pg03 for good: ',
    'machine pg03 + Postgresql on pg02 for good: ',
    'Postgresql on pg03 for good + Postgresql on pg02 for good: ',
  ])
})

test('nobody is promoted as it stands: that is all there is to say', async () => {
  const found = await ask(fixture('bookworm-nobody-promoted'))
  assert.equal([found.primary, found.simulated], [null, 0])
})

async function refused(cib: string, message: RegExp) {
  try {
    await ask(cib)
  } catch (error) {
    assert.instance(error, Refused)
    assert.match((error as Error).message, message)
    return
  }
  assert.unreachable('it was not refused')
}

test('a CIB of a node without quorum, or of another cluster, is refused', async () => {
  await refused(instead(healthy, 'have-quorum="1"', 'have-quorum="0"'), /without quorum/)
  await refused(instead(healthy, /msPostgresql"/g, 'another"'), /no clone msPostgresql/)
})

test('a crm_simulate that fails is a failure, not a clean bill', async () => {
  try {
    await ask(instead(healthy, 'validate-with="pacemaker-3.9"', 'validate-with="pacemaker-99.0"'))
  } catch (error) {
    assert.match((error as Error).message, /^crm_simulate .*: exit \d+/)
    return
  }
  assert.unreachable()
})

test('out of time: it says so, and leaves no file', async () => {
  const stop = new AbortController()
  const asked = simulate(healthy, names, stop.signal)
  stop.abort()
  try {
    await asked
    assert.unreachable()
  } catch (error) {
    assert.instance(error, Failed)
    assert.match((error as Error).message, /not all losses could be simulated in 120 s/)
  }
  assert.equal(
    readdirSync(tmpdir()).filter((name) => name.startsWith('pgcm-simulate-')),
    [],
  )
})

/** `pgcm-status --simulate` with a CIB of that text: its exit code and what it printed. */
async function command(cib: string, ...flags: string[]) {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-cib-'))
  const said: string[] = []
  try {
    const file = join(dir, 'cib.xml')
    writeFileSync(file, cib)
    const words = ['--simulate', '--cib-file', file, ...flags]
    const out: Io['stdout'] = { write: (text: string) => said.push(text) }
    const { config } = load('status', words, { PGCM_CONFIG_FILE: '/dev/null' })
    const code = await simulation(config, out).catch((error) => {
      const { text, exitCode } = report('status', error)
      said.push(text.replaceAll(dir, 'DIR'))
      return exitCode
    })
    return { code, text: bare(said.join('')) }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

test('a healthy cluster of three survives every loss that leaves a quorum: one line, and exit 0', async () => {
  // 3 machines, and 4 instances that crash or stay down; less what is one thing, and two machines at once.
  assert.equal(await command(healthy), {
    code: 0,
    text: '51 single and double losses simulated: each ends with a primary; 3 more leave no quorum\n',
  })
})

test('a forgotten ban is found, though two standbys are there, and it is named: exit 1', async () => {
  const { code, text } = await command(withConstraints(healthy, ban('pg01')), '--json')
  const { healthy: well, primary, findings } = JSON.parse(text)
  assert.equal([code, well, primary], [1, false, 'pg03'])
  assert.equal(findings, [
    {
      lost: ['machine pg02', 'Postgresql on pg03 for good'],
      left: 2,
      constraints: ['cli-ban-msPostgresql-on-pg01'],
    },
    {
      lost: ['machine pg03', 'Postgresql on pg02 for good'],
      left: 2,
      constraints: ['cli-ban-msPostgresql-on-pg01'],
    },
    {
      lost: ['Postgresql on pg03 for good', 'Postgresql on pg02 for good'],
      left: 3,
      constraints: ['cli-ban-msPostgresql-on-pg01'],
    },
  ])
})

test('two forgotten bans: one loss is enough, and what contains it is not told again', async () => {
  assert.equal(await command(withConstraints(healthy, ban('pg01') + ban('pg02'))), {
    code: 1,
    text: `! no primary after the loss of machine pg03, though 2 of 3 nodes are left; not so without constraint cli-ban-msPostgresql-on-pg01, or without cli-ban-msPostgresql-on-pg02
! no primary after the loss of Postgresql on pg03 for good, though 3 of 3 nodes are left; not so without constraint cli-ban-msPostgresql-on-pg01, or without cli-ban-msPostgresql-on-pg02
51 single and double losses simulated: 2 end without a primary; 3 more leave no quorum
`,
  })
})

test('what is no CIB is refused with the way to make one: exit 2', async () => {
  const { code, text } = await command('')
  assert.is(code, 2)
  assert.match(text, /^pgcm-status: DIR\/cib.xml is no CIB: .*\nhint: cibadmin --query > FILE makes one/)
})

const now: Parameters<typeof singleLosses>[1] = {
  online: ['pg01', 'pg02'],
  primary: 'pg01',
  running: [
    { resource: 'Postgresql', node: 'pg01', promoted: true, ours: true },
    { resource: 'address', node: 'pg01', promoted: false, ours: false },
  ],
}

test('losses: each machine; each instance, that crashes or stays down; an instance goes with its machine', () => {
  const singles = singleLosses(parseXml(healthy, 'cib'), now)
  assert.equal(singles.map(lossText), [
    ...['machine pg01', 'machine pg02', 'Postgresql on pg01', 'Postgresql on pg01 for good'],
    ...['address on pg01', 'address on pg01 for good'],
  ])
  const doubles = doubleLosses(singles).map((lost) => lost.map(lossText).join(' + '))
  // 15 pairs, less 4 of pg01 with what runs on it, less 2 of one instance twice.
  assert.is(doubles.length, 9)
  assert.ok(!doubles.some((text) => /machine pg01 \+ .*on pg01/.test(text)), doubles.join())
})

test('the command says what is lost by the monitor that finds out', () => {
  const primary: Loss = {
    node: 'pg03',
    resource: 'Postgresql',
    operation: 'Postgresql_monitor_1000',
    forGood: true,
  }
  assert.is(
    loseCommand('a.xml', [{ node: 'pg01' }, primary], 'b.xml').join(' '),
    'crm_simulate --quiet --simulate --xml-file a.xml --save-output b.xml --node-fail pg01 --op-inject Postgresql_monitor_1000@pg03=4',
  )
  const found = singleLosses(parseXml(healthy, 'cib'), {
    ...now,
    running: ['pg03', 'pg01'].map((node) => ({ resource: 'Postgresql', node, promoted: false, ours: true })),
  })
  const monitors = found.flatMap(({ operation, forGood }) => (forGood ? [] : (operation ?? [])))
  assert.equal(monitors, ['Postgresql_monitor_1000', 'Postgresql_monitor_2000'])
})

test('the words of both releases are read', () => {
  const print = (role: string, failed = 'false') =>
    standing(
      `<pacemaker-result><cluster_status><nodes><node name="a" online="true" unclean="false" type="member"/></nodes>
      <resources><clone id="msPostgresql"><resource id="Postgresql:0" role="${role}" active="true" orphaned="false" failed="${failed}"><node name="a"/></resource></clone></resources>
      </cluster_status></pacemaker-result>`,
      'cluster_status',
      names,
    ).primary
  assert.equal(
    [print('Master'), print('Promoted'), print('Slave'), print('Promoted', 'true')],
    ['a', 'a', null, null],
  )
})

test.run()
