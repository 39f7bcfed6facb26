/** docs/monitoring/alerts.yml, judged by promtool: stories of a cluster, and the alerts that they raise, no more and no less. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { promtool } from './promtool.ts'

const file = fileURLToPath(new URL('../docs/monitoring/alerts.yml', import.meta.url))
const alerts = [...readFileSync(file, 'utf8').matchAll(/- alert: (\S+)/g)].map(([, name]) => String(name))

type Series = Record<string, string>

/** Promtool's shorthand: the value for 20 minutes, a sample each 5 s. */
const steady = (value: number) => `${value}x240`
const on = (job: string, instance: string, labels = '') =>
  `{cluster="main",job="pgcm-${job}",instance="${instance}"${labels && `,${labels}`}}`

const NODES = ['pg01', 'pg02', 'pg03']

/** A cluster that is well: pg01 is primary. */
function healthy(): Series {
  const series: Series = {}
  const say = (name: string, where: string, value: number) => {
    series[name + where] = steady(value)
  }
  const common = (job: string, machine: string, kind: string) => {
    const here = (labels = '') => on(job, machine, labels)
    say('up', here(), 1)
    say('pgcm_build_info', here(`daemon="${job}",kind="${kind}",version="1.0.0"`), 1)
    say('pgcm_config_hash', here(`kind="${kind}"`), kind === 'app' ? 250348346448124 : 4711)
    say('pgcm_etcd_read_age_seconds', here(), 0.5)
    say('pgcm_etcd_watch_up', here(), 1)
    say('pgcm_published_primary', here('node="pg01",address="10.0.0.1"'), 1)
    say('pgcm_published_epoch', here(), 7)
    say('pgcm_drift', here(), 0)
    say('pgcm_trouble', here('event="etcd.read"'), 0)
    say('process_resident_memory_bytes', here(), 80e6)
    say('process_start_time_seconds', here(), 1000)
    if (job === 'supervise' || kind === 'app') {
      say('pgcm_paused', here(), 0)
      say('pgcm_paused_until_timestamp_seconds', here(), 0)
    }
  }
  for (const machine of NODES) {
    const here = (labels = '') => on('supervise', machine, labels)
    common('supervise', machine, 'postgres')
    say('pgcm_pacemaker_view_age_seconds', here(), 0.5)
    say('pgcm_quorum', here(), 1)
    say('pgcm_promoted_here', here(), Number(machine === 'pg01'))
    say('pgcm_nodes', here(), 3)
    for (const node of NODES) say('pgcm_seen_primary', here(`node="${node}"`), Number(node === 'pg01'))
    for (const [state, count] of Object.entries({ sync: 1, potential: 1, async: 0 }))
      say('pgcm_standbys', here(`state="${state}"`), count)
    if (machine === 'pg01')
      for (const node of ['pg02', 'pg03']) say('pgcm_standby_lag_seconds', here(`node="${node}"`), 0)
    for (const kind of ['cli', 'ours']) say('pgcm_constraints', here(`kind="${kind}"`), 0)
  }
  for (const machine of [...NODES, 'app01']) {
    common('proxy', machine, machine === 'app01' ? 'app' : 'postgres')
    say('pgcm_reload_ok', on('proxy', machine), 1)
  }
  return series
}

/** All series of `name`, of one daemon or with some labels where told, get other values. */
type Change = [name: string, values: string | number, where?: string | undefined]

function changed(changes: Change[]): Series {
  const series = healthy()
  for (const [name, values, where = ''] of changes) {
    const keys = Object.keys(series).filter((key) => key.startsWith(`${name}{`) && key.includes(where))
    assert.ok(keys.length > 0, `no series ${name} ${where}`)
    for (const key of keys) series[key] = typeof values === 'number' ? steady(values) : values
  }
  return series
}

const pg01 = 'instance="pg01"'
const pg02 = 'instance="pg02"'
const app01 = 'instance="app01"'
const gone = (value: number) => `${value}x5 stale`

interface Story {
  what: string
  changes: Change[]
  /** Nothing is raised until here, in seconds, and `raises` is from the second moment on. */
  quiet: number
  then: number
  raises: string[]
}

const story = (what: string, changes: Change[], quiet: number, then: number, ...raises: string[]): Story => ({
  what,
  changes,
  quiet,
  then,
  raises,
})

const stories: Story[] = [
  story('all is well', [], 600, 1000),
  story('etcd names no primary', [['pgcm_published_primary', 0]], 25, 40, 'PgcmNoPrimary'),
  story('nobody sees a primary', [['pgcm_seen_primary', 0]], 25, 40, 'PgcmNoPrimary'),
  story(
    'who has not read etcd for long has no say in whether there is a primary',
    [
      ['pgcm_published_primary', 0],
      ['pgcm_published_primary', 1, pg02],
      ['pgcm_etcd_read_age_seconds', 20, pg02],
    ],
    25,
    40,
    'PgcmNoPrimary',
  ),
  story('a failover of 25 s', [['pgcm_published_primary', '1x3 0x4 1x240']], 60, 300),
  story('two are promoted', [['pgcm_promoted_here', 1, pg02]], 10, 25, 'PgcmTwoPrimaries'),
  story(
    'two views have two primaries',
    [
      ['pgcm_seen_primary', 0, `${pg02},node="pg01"`],
      ['pgcm_seen_primary', 1, `${pg02},node="pg02"`],
    ],
    10,
    25,
    'PgcmTwoPrimaries',
  ),
  story('one view has no primary', [['pgcm_seen_primary', 0, pg02]], 60, 600),
  story(
    'no standby is synchronous, but both stream',
    [
      ['pgcm_standbys', 0, 'state="sync"'],
      ['pgcm_standbys', 2, 'state="async"'],
    ],
    10,
    25,
    'PgcmNoSyncStandby',
  ),
  story('one standby is away', [['pgcm_standbys', 0, 'state="potential"']], 115, 130, 'PgcmStandbyMissing'),
  story('both are away', [['pgcm_standbys', 0]], 10, 130, 'PgcmNoSyncStandby', 'PgcmStandbyMissing'),
  story(
    'a standby replays late',
    [['pgcm_standby_lag_seconds', '0+5x240', 'node="pg02"']],
    120,
    130,
    'PgcmStandbyLags',
  ),
  story(
    'a pause that nobody ends, within its time',
    [
      ['pgcm_paused', 1, app01],
      ['pgcm_paused_until_timestamp_seconds', 3600, app01],
    ],
    55,
    65,
    'PgcmPausedTooLong',
  ),
  story(
    'a pause that should be over',
    [
      ['pgcm_paused', '0x1 1x240', pg01],
      ['pgcm_paused_until_timestamp_seconds', '0x1 15x240', pg01],
    ],
    30,
    40,
    'PgcmPauseOverdue',
  ),
  story('a planned failover', [['pgcm_paused', '0x4 1x2 0x240']], 60, 300),
  story('a proxy at odds', [['pgcm_drift', 1, `job="pgcm-proxy",${app01}`]], 25, 35, 'PgcmDrift'),
  story('a supervise at odds', [['pgcm_drift', 1, `job="pgcm-supervise",${pg02}`]], 25, 35, 'PgcmDrift'),
  story('a RELOAD that fails', [['pgcm_reload_ok', 0, app01]], 25, 35, 'PgcmReloadFailing'),
  story(
    'one daemon cannot read etcd',
    [['pgcm_etcd_read_age_seconds', '1+5x240', app01]],
    40,
    60,
    'PgcmKeyStale',
  ),
  story('nobody can', [['pgcm_etcd_read_age_seconds', '1+5x240']], 25, 35, 'PgcmEtcdUnreachable'),
  story(
    'nobody can for a minute',
    [['pgcm_etcd_read_age_seconds', '1+5x240']],
    25,
    60,
    'PgcmEtcdUnreachable',
    'PgcmKeyStale',
  ),
  story('a watch that does not come back', [['pgcm_etcd_watch_up', 0, app01]], 115, 125, 'PgcmWatchDown'),
  story('a node alone', [['pgcm_quorum', 0, pg02]], 10, 20, 'PgcmNoQuorum'),
  story(
    'a Pacemaker that hangs',
    [['pgcm_pacemaker_view_age_seconds', '1+5x240', pg02]],
    25,
    35,
    'PgcmPacemakerUnreadable',
  ),
  story('a forgotten ban', [['pgcm_constraints', 1, 'kind="cli"']], 295, 305, 'PgcmConstraintLeft'),
  story('a move left behind', [['pgcm_constraints', 1, 'kind="ours"']], 295, 305, 'PgcmConstraintLeft'),
  story('a daemon that is down', [['up', 0, `job="pgcm-proxy",${app01}`]], 25, 35, 'PgcmDaemonAbsent'),
  story(
    'a machine without power',
    [
      ['up', '1x5 0x240', pg02],
      ['pgcm_promoted_here', gone(0), pg02],
      ['pgcm_seen_primary', gone(0), pg02],
      ['pgcm_seen_primary', gone(1), `${pg02},node="pg01"`],
      ['pgcm_standbys', gone(1), pg02],
      ['pgcm_standbys', 0, `${pg01},state="potential"`],
      ['pgcm_standbys', 0, 'instance="pg03",state="potential"'],
    ],
    50,
    200,
    'PgcmDaemonAbsent',
    'PgcmStandbyMissing',
  ),
  story(
    'a daemon that starts each minute',
    [['process_start_time_seconds', '60x11 120x11 180x11 240x11 300x240', `job="pgcm-proxy",${app01}`]],
    120,
    240,
    'PgcmRestarting',
  ),
  story('a trouble that stays', [['pgcm_trouble', 1, app01]], 295, 305, 'PgcmTrouble'),
  story(
    'other settings on one node',
    [['pgcm_config_hash', 4712, `job="pgcm-proxy",${pg02}`]],
    595,
    605,
    'PgcmConfigDiffers',
  ),
  story('too much memory', [['process_resident_memory_bytes', 160e6, app01]], 595, 605, 'PgcmTooBig'),
]

test('promtool accepts the rules', async () => {
  assert.match(await promtool(['check', 'rules', file]), `SUCCESS: ${alerts.length} rules found`)
})

test('each alert is raised by its stories when it should be, and no other is', async () => {
  const at = (seconds: number, names: string[]) => ({
    expr: 'group by (alertname) (ALERTS{alertstate="firing"})',
    eval_time: `${seconds}s`,
    exp_samples: names.map((name) => ({ labels: `{alertname="${name}"}`, value: 1 })),
  })
  const cases = stories.map(({ what, changes, quiet, then, raises }) => ({
    name: what,
    interval: '5s',
    input_series: Object.entries(changed(changes)).map(([series, values]) => ({ series, values })),
    promql_expr_test: [at(quiet, []), at(then, raises)],
  }))
  const versions = changed([])
  delete versions[`pgcm_build_info${on('proxy', 'app01', 'daemon="proxy",kind="app",version="1.0.0"')}`]
  versions[`pgcm_build_info${on('proxy', 'app01', 'daemon="proxy",kind="app",version="0.9.0"')}`] = steady(1)
  cases.push({
    name: 'an old version on one machine',
    interval: '5s',
    input_series: Object.entries(versions).map(([series, values]) => ({ series, values })),
    promql_expr_test: [at(895, []), at(900, ['PgcmVersionDiffers'])],
  })
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-alerts-'))
  try {
    // JSON is YAML as well.
    const document = { rule_files: [file], evaluation_interval: '5s', tests: cases }
    writeFileSync(join(dir, 'tests.yml'), JSON.stringify(document))
    assert.match(await promtool(['test', 'rules', join(dir, 'tests.yml')]), 'SUCCESS')
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

test('every alert has a story', () => {
  const told = new Set([...stories.flatMap(({ raises }) => raises), 'PgcmVersionDiffers'])
  assert.equal([...told].sort(), [...alerts].sort())
})

test.run()
