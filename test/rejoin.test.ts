import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parseAgent } from '../lib/agent.ts'
import { load } from '../lib/config.ts'
import { type Expected, Failed, Refused } from '../lib/errors.ts'
import { type Ours, type Theirs, Unreadable } from '../lib/evidence.ts'
import type { Local } from '../lib/local.ts'
import { rejoinAtLast } from '../lib/rejoin.ts'
import { BeyondRewind, type Mark, type Stage } from '../lib/renewal.ts'

const CIB = `<primitive id="Postgresql" class="ocf" provider="pgcm" type="pgsql">
  <instance_attributes id="i">
    <nvpair id="a" name="pgdata" value="/var/lib/postgresql/17/main"/>
    <nvpair id="b" name="bindir" value="/usr/lib/postgresql/17/bin"/>
    <nvpair id="c" name="config" value="/etc/postgresql/17/main/postgresql.conf"/>
    <nvpair id="d" name="primary_conninfo_opt" value="passfile=/x connect_timeout=2"/>
  </instance_attributes>
</primitive>`

test("the agent's parameters come from the CIB, its files from tmpdir", () => {
  const agent = parseAgent(CIB)
  assert.is(agent.pgdata, '/var/lib/postgresql/17/main')
  assert.is(agent.repuser, 'replicator')
  assert.is(agent.pendingFile, '/var/lib/pgcm/agent/rejoin.pending')
  assert.throws(() => parseAgent('<primitive id="x"/>'), /no parameter pgdata/)
})

const control = {
  systemId: '7',
  state: 'shut down',
  timeline: 9,
  checkpoint: '0/4FFFF88',
  redo: '0/4FFFF88',
  checksums: true,
  walLogHints: true,
  segment: 2 ** 24,
}
const OURS: Ours = {
  control,
  timeline: 9,
  last: '0/4FFFF88',
  lastWhat: 'XLOG CHECKPOINT_SHUTDOWN',
  history: [],
  files: [],
}
const mark = (stage: Stage, more: Partial<Mark> = {}): Mark => ({
  stage,
  timeline: 10,
  rebooted: false,
  ...more,
})
const THEIRS: Theirs = {
  systemId: '7',
  timeline: 10,
  lsn: '0/6000000',
  history: [{ timeline: 9, end: '0/5000000' }],
  checksums: true,
  checkpointTimeline: 9,
  segment: 2 ** 24,
  oldest: 1n,
  walBytes: 0,
  bytes: 0,
  tablespaces: [],
}

function scene(over: Partial<Local> = {}, flags: string[] = ['--yes']) {
  const did: string[] = []
  const act =
    <T>(name: string, value?: T) =>
    async () => {
      did.push(name)
      return value as T
    }
  const local: Local = {
    node: 'pg01',
    agent: parseAgent(CIB),
    primary: async () => ({ name: 'pg02', address: '10.0.0.12' }),
    running: async () => null,
    occupants: async () => [],
    leftovers: async () => [],
    marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: null }),
    ours: async () => OURS,
    hasData: async () => true,
    state: async () => 'shut down',
    systemId: async () => '7',
    lost: async () => ({ commits: ['742', '743'], records: '' }),
    lostCommands: () => ['pg_waldump ...'],
    noTablespaces: async () => undefined,
    noStart: async () => undefined,
    noRewind: async () => undefined,
    theirs: async () => THEIRS,
    beyondRewind: async () => undefined,
    noBackup: async () => undefined,
    copied: async () => true,
    keepLost: act('keep lost', '/lost.txt'),
    checkpoint: act('checkpoint'),
    rewindCommands: () => ['pg_rewind ...'],
    rewind: act('rewind'),
    settleCommands: () => ['initdb --sync-only ...'],
    settle: act('settle'),
    swapCommands: () => ['mv ...'],
    discardCommands: () => ['rm -rf ...'],
    backupCommands: () => ['pg_basebackup ...'],
    backUp: act('back up'),
    swap: act('swap'),
    release: act('release'),
    cleanupCommands: () => ['crm_resource --cleanup --resource Postgresql --node pg01'],
    cleanUp: act('clean up'),
    streams: act('streams', 'HS:sync, STREAMING|SYNC'),
    discard: act('discard'),
    ...over,
  }
  const text: string[] = []
  const { config } = load('rejoin', flags, { PGCM_CONFIG_FILE: '/dev/null' })
  const run = () =>
    rejoinAtLast({ config, local, out: { write: (more) => text.push(more) }, stdin: {}, env: {} }).then(
      () => undefined,
      (error: Expected) => error,
    )
  return { did, run, text: () => text.join('') }
}

const DIVERGED: Partial<Local> = { ours: async () => ({ ...OURS, last: '0/5000060' }) }

/** In production, as far as pg_control knows, until the first rewind. */
function beyondOnceRecovered(): Partial<Local> {
  let state = 'in production'
  return {
    ours: async () => ({ ...OURS, last: '0/5000060', control: { ...control, state } }),
    beyondRewind: async () => (state === 'shut down' ? 'pg_rewind cannot: WAL gone' : undefined),
    rewind: async () => {
      state = 'shut down'
      throw new BeyondRewind('pg_rewind cannot: WAL gone')
    },
  }
}

const END = ['release', 'clean up', 'streams', 'discard']

for (const [what, over, wanted, says] of [
  ['clean data is only released', {}, END, "clean: its history is part of the primary's"],
  [
    'diverged data is rewound, after what will be lost is written down',
    DIVERGED,
    ['keep lost', 'checkpoint', 'rewind', ...END],
    'diverged: pg_rewind to 0/5000000',
  ],
  [
    'data without checksums is beyond rewind',
    {
      ours: async () => ({
        ...OURS,
        last: '0/5000060',
        control: { ...control, checksums: false, walLogHints: false },
      }),
    },
    ['keep lost', 'back up', 'swap', ...END],
    'beyond rewind',
  ],
  [
    'an interrupted rewind is done again, whatever the data looks like',
    { marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('rewinding') }) },
    ['checkpoint', 'rewind', ...END],
    'interrupted: pg_rewind again',
  ],
  [
    'an interrupted rewind that cannot be done again takes a base backup',
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('rewinding') }),
      beyondRewind: async () => 'could not find previous WAL record',
    },
    ['back up', 'swap', ...END],
    'could not find previous WAL record',
  ],
  [
    'a rewind that was killed after its last write is complete',
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('rewinding') }),
      state: async () => 'in archive recovery',
    },
    ['settle', ...END],
    'had come to its end',
  ],
  [
    'a run killed in the swap goes on there',
    { marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('swapping') }) },
    ['swap', ...END],
    'base backup of an earlier pgcm-rejoin is complete',
  ],
  ...(['rewinding', 'swapping', 'ready'] as const).map((stage) => [
    `what was begun (${stage}) for a primary that is no longer the newest takes a base backup`,
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark(stage, { timeline: 2 }) }),
      state: async () => 'in archive recovery',
    },
    ['back up', 'swap', ...END],
    'an earlier pgcm-rejoin was interrupted, and timeline 10 is newer: base backup',
  ]),
  [
    'a rewind that looks complete takes a base backup where the machine went down: its files may not be on the disk',
    {
      marks: async () => ({
        lock: 9,
        promise: 10,
        promoted: 10,
        mark: mark('rewinding', { rebooted: true }),
      }),
      state: async () => 'in archive recovery',
    },
    ['back up', 'swap', ...END],
    'the machine went down in the middle of pg_rewind: base backup',
  ],
  [
    'a complete base backup survives the end of its machine',
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('swapping', { rebooted: true }) }),
    },
    ['swap', ...END],
    'base backup of an earlier pgcm-rejoin is complete',
  ],
  [
    'a base backup that somebody has removed is made again',
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('swapping') }),
      copied: async () => false,
    },
    ['back up', 'swap', ...END],
    'is not there any more: base backup',
  ],
  [
    'a run killed before the release goes on there',
    { marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('ready') }) },
    END,
    'has cured the data',
  ],
  [
    'a run killed during the recovery looks at the data again',
    {
      ...DIVERGED,
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('recovering') }),
    },
    ['keep lost', 'checkpoint', 'rewind', ...END],
    'diverged',
  ],
  [
    'no checkpoint is asked for where the primary has made one since its promotion',
    { ...DIVERGED, theirs: async () => ({ ...THEIRS, checkpointTimeline: 10 }) },
    ['keep lost', 'rewind', ...END],
    'lost: 2 transactions that committed here behind 0/5000000: 742 743',
  ],
  [
    'clean data that needs WAL which the primary has no more takes a base backup',
    { theirs: async () => ({ ...THEIRS, oldest: 5n }) },
    ['back up', 'swap', ...END],
    'the primary no longer has the WAL from 0/4FFFF88 on',
  ],
  [
    'data with other checksums than the primary would be a mixture after a rewind',
    { ...DIVERGED, theirs: async () => ({ ...THEIRS, checksums: false }) },
    ['keep lost', 'back up', 'swap', ...END],
    'data checksums are on here and off on the primary',
  ],
  [
    'diverged data that pg_rewind does not take is known before the question',
    { ...DIVERGED, beyondRewind: async () => 'pg_rewind cannot: no common ancestor' },
    ['keep lost', 'back up', 'swap', ...END],
    'no common ancestor: base backup',
  ],
  [
    'WAL that cannot be read',
    { ours: async () => Promise.reject(new Unreadable('its WAL cannot be read')) },
    ['back up', 'swap', ...END],
    'beyond rewind, its WAL cannot be read: base backup',
  ],
  [
    'a data directory that somebody has moved away is made anew',
    { hasData: async () => false },
    ['back up', 'swap', ...END],
    'there is no data directory: base backup',
  ],
  [
    'what an earlier run kept is removed once it streams',
    { running: async () => 'streaming' as const, leftovers: async () => ['/x.before-rejoin'] },
    ['streams', 'discard'],
    '/x.before-rejoin can go',
  ],
  [
    'a crashed node of which pg_rewind finds out only then that it cannot',
    beyondOnceRecovered(),
    ['keep lost', 'checkpoint', 'keep lost', 'back up', 'swap', ...END],
    'pg_rewind cannot: WAL gone: base backup',
  ],
] as [string, Partial<Local>, string[], string][]) {
  test(what, async () => {
    const it = scene(over)
    assert.is(await it.run(), undefined)
    assert.equal(it.did, wanted)
    assert.match(it.text(), says)
  })
}

for (const [what, over, says] of [
  ['the primary', { primary: async () => ({ name: 'pg01', address: 'x' }) }, 'pg01 is the primary'],
  [
    'one that writes, whatever Pacemaker says',
    { running: async () => 'primary' as const },
    'pg01 is the primary',
  ],
  ['one that streams', { running: async () => 'streaming' as const }, 'streams already'],
  ['one that runs', { running: async () => 'standby' as const }, 'as a standby that does not stream'],
  ['any, without a primary', { primary: async () => null }, 'there is no primary to rejoin to'],
  [
    'any, to a primary that is older than what was promoted',
    { marks: async () => ({ lock: 9, promise: 10, promoted: 18, mark: null }) },
    'older than the promoted epoch 18',
  ],
  [
    'any, to a primary that is older than what this node promised',
    { marks: async () => ({ lock: 9, promise: 17, promoted: 10, mark: null }) },
    'older than epoch 17, which pg01 promised',
  ],
  [
    'the data of another cluster',
    { theirs: async () => ({ ...THEIRS, systemId: '8' }) },
    'is of another cluster',
  ],
  [
    'one that needs a base backup and has no room for it',
    {
      ours: async () => ({
        ...OURS,
        last: '0/5000060',
        control: { ...control, checksums: false, walLogHints: false },
      }),
      noBackup: async () => ({ why: 'a copy needs about 9 MiB, and 1 MiB are free', cure: 'Make room.' }),
    },
    'no base backup can be made',
  ],
  [
    'one where a process of PostgreSQL lives',
    { occupants: async () => [{ pid: 12, program: 'postgres', ours: false }] },
    'at work in /var/lib/postgresql/17/main: postgres (pid 12)',
  ],
  [
    'any, to a primary that cannot be asked',
    { theirs: async () => Promise.reject(new Failed('the primary does not answer')) },
    'the primary does not answer',
  ],
  [
    'one that lacks the directory of a tablespace',
    { noTablespaces: async () => ({ why: 'a tablespace in /mnt/a', cure: 'install -d' }) },
    'a tablespace in /mnt/a',
  ],
  [
    'clean data that has no room for the next WAL files',
    { noStart: async () => ({ why: 'PostgreSQL needs about 32 MiB', cure: 'Make room.' }) },
    'PostgreSQL needs about 32 MiB',
  ],
  [
    'data that was cured and has no room for the next WAL files',
    {
      marks: async () => ({ lock: 9, promise: 10, promoted: 10, mark: mark('ready') }),
      noStart: async () => ({ why: 'PostgreSQL needs about 32 MiB', cure: 'Make room.' }),
    },
    'PostgreSQL needs about 32 MiB',
  ],
  [
    'one that has no room for a rewind',
    { ...DIVERGED, noRewind: async () => ({ why: 'pg_rewind needs about 9 MiB', cure: 'Make room.' }) },
    'pg_rewind needs about 9 MiB',
  ],
] as [string, Partial<Local>, string][]) {
  test(`refuses ${what}, and touches nothing`, async () => {
    const it = scene(over)
    const error = await it.run()
    assert.instance(error, Refused)
    assert.match(error?.message ?? '', says)
    assert.equal(it.did, [])
  })
}

test('--dry-run prints the commands and runs none', async () => {
  const it = scene(DIVERGED, ['--dry-run'])
  assert.is(await it.run(), undefined)
  assert.equal(it.did, [])
  for (const said of [
    'pg_waldump ...',
    'pg_rewind ...',
    'rm -f /var/lib/pgcm/agent/PGSQL.lock',
    'crm_resource --cleanup',
  ])
    assert.match(it.text(), said)
})

test('without a terminal it needs --yes', async () => {
  const it = scene({}, [])
  assert.instance(await it.run(), Refused)
  assert.equal(it.did, [])
})

test('a step that fails ends it: nothing is released', async () => {
  const it = scene({ ...DIVERGED, rewind: async () => Promise.reject(new Failed('disk full')) })
  assert.is((await it.run())?.message, 'disk full')
  assert.equal(it.did, ['keep lost', 'checkpoint'])
})

for (const [what, over, ok] of [
  ['clean data is done', {}, true],
  ['diverged data is refused, and untouched', DIVERGED, false],
] as [string, Partial<Local>, boolean][])
  test(`--if-clean: ${what}; the last line of --json is a receipt that says so`, async () => {
    const it = scene(over, ['--yes', '--json', '--if-clean'])
    const error = await it.run()
    const receipt = JSON.parse(it.text().trim().split('\n').at(-1) ?? '')
    assert.equal([receipt.event, receipt.ok], ['receipt', ok])
    assert.equal(it.did, ok ? END : [])
    if (ok) return
    assert.instance(error, Refused)
    assert.is(receipt.error, 'pg01 is not clean: diverged: pg_rewind to 0/5000000')
    assert.match(receipt.hint, 'sudo pgcm-rejoin on pg01')
  })

test('--json: a refusal has a receipt, too', async () => {
  const it = scene({ primary: async () => null }, ['--yes', '--json'])
  await it.run()
  assert.is(JSON.parse(it.text()).error, 'there is no primary to rejoin to')
})

test('--json: evidence, events, receipt', async () => {
  const it = scene({}, ['--yes', '--json'])
  await it.run()
  const lines = it
    .text()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  assert.equal([lines[0].event, lines[0].cure, lines[0].relation.kind], ['evidence', 'none', 'clean'])
  assert.equal([lines.at(-1).event, lines.at(-1).ok], ['receipt', true])
})

test.run()
