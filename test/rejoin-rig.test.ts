import { type ChildProcess, spawn } from 'node:child_process'
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sh } from '../lib/sh.ts'
import { until } from '../lib/wait.ts'
import type { Node } from './agent/rig.ts'
import { moveInside, play } from './rejoin/inside.ts'
import { type Past, Stage } from './rejoin/stage.ts'

moveInside(import.meta.url)
let stage: Stage
process.on('exit', () => stage?.destroy())

/** The tests share a cluster; each puts pg01 into the past that it wants first. */
const stories: [string, () => Promise<void>][] = [
  ['stopped in order before the fork: it is started as it is', () => clean('stopped')],
  ['killed before the fork, and nothing behind it: it is started as it is', () => clean('crashed')],
  [
    'stopped with records behind the fork: pg_rewind, and a receipt first',
    () => diverged('stopped, diverged'),
  ],
  ['killed with records behind the fork: the same after a recovery', () => diverged('crashed, diverged')],
  ['--dry-run shows the commands and touches nothing', dryRun],
  ['--json has one event a line', json],
  ['what is bad is refused with one line, and nothing is touched', refusals],
  ['data checksums that differ: a base backup', otherChecksums],
  ['WAL that pg_rewind needs is gone here: a base backup', walGoneHere],
  ['data of another cluster: refused, until somebody has moved it away', otherCluster],
  ['pg_wal elsewhere: rewound there, never copied', externalWal],
  ['tablespaces: never copied', tablespaces],
  ['WAL that a node needs is gone on the primary: a base backup', walGoneThere],
  ['the agent and pgcm-rejoin part in good order', end],
]

play(stories, 'pgcm-rejoin')

/** A run to its end, which must be a good one; what it printed. */
async function done(flags?: string[]): Promise<string> {
  const { code, stdout, stderr } = await stage.run(flags)
  assert.is(code, 0, `${stdout}${stderr}`)
  await stage.follows()
  return stdout
}

async function clean(past: Past) {
  stage ??= await Stage.make()
  await stage.past(past)
  assert.match(await done(), "clean: its history is part of the primary's")
}

const receipts = () =>
  readdirSync(stage.rig.path('pg01', 'tmp'))
    .filter((name) => name.startsWith('lost-'))
    .map((name) => readFileSync(stage.rig.path('pg01', 'tmp', name), 'utf8'))

/** The two transactions that only pg01 has are written down before they are gone. */
async function diverged(past: Past) {
  await stage.past(past)
  const said = await done()
  assert.match(said, /diverged: pg_rewind to 0\/[0-9A-F]+\n/)
  receipt(said)
}

function receipt(said: string) {
  const [, xids = ''] = said.match(/^lost: 2 transactions .*: (\d+ \d+)$/m) ?? []
  const [text = '', ...others] = receipts()
  assert.is(others.length, 0)
  assert.match(text, `2 transactions committed here: ${xids}\n`)
  for (const xid of xids.split(' ')) assert.match(text, new RegExp(`tx: +${xid}, .*desc: COMMIT 20`))
}

async function dryRun() {
  await stage.past('crashed, diverged')
  const before = await stage.tree()
  const { code, stdout } = await stage.run(['--dry-run'])
  assert.is(code, 0)
  assert.is(await stage.tree(), before)
  // The commands are what one would type: PostgreSQL's shell takes them as they are.
  const command = stdout.match(/^ {4}(setpriv .*pg_waldump .*) >>/m)?.[1] ?? ''
  const { stdout: dump } = await sh(['sh', '-c', command], { okCodes: [1] })
  assert.is(dump.match(/desc: COMMIT/g)?.length, 2)
  for (const word of ['postgres --single', 'pg_rewind', 'crm_resource --cleanup', 'PGSQL.lock'])
    assert.match(stdout, word)
}

async function json() {
  await stage.past('stopped, diverged')
  const lines = (await done(['--json', '--yes'])).trim().split('\n')
  const events = lines.map((line) => JSON.parse(line))
  assert.equal([events[0].event, events[0].cure, events[0].relation.kind], ['evidence', 'rewind', 'diverged'])
  const steps = events.filter(({ event }) => event === 'done').map(({ step }) => step)
  assert.equal(steps, ['write down', 'rewind', 'release', 'clean up', 'stream', 'discard'])
  assert.equal([events.at(-1).event, events.at(-1).ok], ['receipt', true])
}

interface Refusal {
  what: string
  says: string
  spoil?: () => unknown
  mend?: () => unknown
  flags?: string[]
  over?: { node?: Node; uid?: number }
}

/** Each with data that a run would change. */
async function refusals() {
  await stage.past('stopped, diverged')
  const { rig } = stage
  const tmp = (name: string) => rig.path('pg01', 'tmp', name)
  const rename = (from: string, to: string) => () => renameSync(join(rig.dir, from), join(rig.dir, to))
  const write = (file: string, text: string) => () => writeFileSync(file, text)
  const hosts = readFileSync('/etc/hosts', 'utf8')
  let other: ChildProcess | undefined
  const rows: Refusal[] = [
    { what: 'an unknown flag', says: 'unknown', flags: ['--force'] },
    { what: 'nobody to ask', says: 'nobody is there to be asked', flags: [] },
    { what: 'not root', says: 'only root can do this', over: { uid: 65534 } },
    { what: 'the primary', says: 'pg03 is the primary', over: { node: 'pg03' } },
    { what: 'a standby that streams', says: 'pg02 streams already', over: { node: 'pg02' } },
    {
      what: 'no Corosync',
      says: 'crm_node .*Do Corosync and Pacemaker run',
      spoil: () => mkdirSync(join(rig.dir, 'broken/corosync'), { recursive: true }),
      mend: () => rmSync(join(rig.dir, 'broken'), { recursive: true }),
    },
    {
      what: 'a lock file with rubbish',
      says: 'holds "x.*" and no epoch.*echo 9 >',
      spoil: write(tmp('PGSQL.lock'), 'x\n'),
      mend: write(tmp('PGSQL.lock'), '9\n'),
    },
    {
      what: 'an empty promise',
      says: 'holds "" and no epoch.*echo 11 >',
      spoil: write(tmp('promise'), ''),
      mend: write(tmp('promise'), '9\n'),
    },
    {
      what: 'a promise above the primary',
      says: 'older than epoch 17, which pg01 promised',
      spoil: write(tmp('promise'), '17\n'),
      mend: write(tmp('promise'), '9\n'),
    },
    {
      what: 'an epoch above the primary',
      says: 'older than the promoted epoch 19',
      spoil: write(join(rig.dir, 'attrs/Postgresql-epoch@pg03'), '19\n'),
      mend: write(join(rig.dir, 'attrs/Postgresql-epoch@pg03'), '11\n'),
    },
    {
      what: 'no primary',
      says: 'there is no primary to rejoin to',
      spoil: rename('attrs/Postgresql-status@pg03', 'away'),
      mend: rename('away', 'attrs/Postgresql-status@pg03'),
    },
    {
      what: 'a primary that cannot be reached',
      says: 'the primary at 10.77.0.11 does not answer: .*onnection refused',
      spoil: write('/etc/hosts', hosts.replace('10.77.0.13 ', '10.77.0.11 ')),
      mend: write('/etc/hosts', hosts),
    },
    {
      what: 'a process of PostgreSQL without a pid file',
      says: 'at work in .*data: postgres .pid',
      spoil: async () => {
        other = spawn('sh', ['-c', 'echo postgres >/proc/$$/comm; read x'], {
          cwd: stage.pgdata,
          stdio: ['pipe', 'ignore', 'ignore'],
        })
        await until('it is there', { timeoutMs: 5000 }, () => rig.processes('pg01').length > 0)
      },
      mend: () => new Promise((resolve) => other?.once('close', resolve).kill('SIGKILL')),
    },
    {
      what: 'a pgcm-rejoin that is at work',
      says: 'another pgcm-rejoin is at work on this node',
      spoil: async () => {
        const held = stage.gate.shutAfter(1)
        other = stage.start(['--yes']).child
        await held
      },
      mend: async () => {
        const gone = new Promise((resolve) => other?.once('close', resolve))
        other?.kill('SIGKILL')
        await gone
        stage.gate.open()
      },
    },
  ]
  for (const { what, says, spoil, mend, flags, over } of rows) {
    await spoil?.()
    const before = await stage.tree()
    const { code, stderr } = await stage.run(flags, over)
    const after = await stage.tree()
    await mend?.()
    assert.is(code, 2, `${what}: ${stderr}`)
    assert.match(stderr.replaceAll('\n', ' '), new RegExp(says), what)
    assert.ok(stderr.trim().split('\n').length <= 2, stderr)
    assert.is(after, before, what)
  }
}

/** Something of PostgreSQL's done to the stopped pg01. */
const offline = (program: string, ...words: string[]) => {
  const user = ['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--']
  return sh([...user, join(stage.rig.bindir, program), ...words], { timeoutMs: 60_000 })
}

async function otherChecksums() {
  await stage.past('stopped, diverged')
  await offline('pg_checksums', '--enable', '-D', stage.pgdata)
  const said = await done()
  assert.match(said, 'beyond rewind, data checksums are on here and off on the primary: base backup')
  receipt(said)
}

/** What is left begins with the last checkpoint, so the first of the two lost commits cannot be told. */
async function walGoneHere() {
  await stage.past('stopped, diverged')
  const wal = join(stage.pgdata, 'pg_wal')
  const files = readdirSync(wal)
    .filter((name) => /^00000009[0-9A-F]{16}$/.test(name))
    .sort()
  const { stdout } = await offline('pg_controldata', stage.pgdata)
  const last = stdout.match(/REDO WAL file: +(\w+)/)?.[1] ?? ''
  assert.ok(files.indexOf(last) > 1)
  for (const name of files.slice(0, files.indexOf(last))) rmSync(join(wal, name))
  const said = await done()
  assert.match(said, /beyond rewind, pg_rewind cannot: .*: base backup/)
  assert.match(receipts()[0] ?? '', /# the WAL of timeline 9 from .* is gone/)
}

async function otherCluster() {
  await stage.past('stopped')
  rmSync(stage.pgdata, { recursive: true })
  await offline('initdb', '--no-sync', '-D', stage.pgdata)
  const before = await stage.tree()
  const { code, stderr } = await stage.run()
  assert.is(code, 2, stderr)
  assert.match(stderr, /is of another cluster: system identifier \d+, the primary has \d+/)
  assert.is(await stage.tree(), before)
  // The hint's cure.
  rmSync(stage.pgdata, { recursive: true })
  assert.match(await done(), 'there is no data directory: base backup')
}

/** pg_rewind follows the link; a base backup would put the WAL elsewhere. */
async function externalWal() {
  const { rig } = stage
  const link = async () => {
    await stage.past('stopped, diverged')
    rmSync(rig.path('pg01', 'wal'), { recursive: true, force: true })
    await sh(['mv', join(stage.pgdata, 'pg_wal'), rig.path('pg01', 'wal')])
    symlinkSync(rig.path('pg01', 'wal'), join(stage.pgdata, 'pg_wal'))
  }
  await link()
  assert.match(await done(), 'diverged: pg_rewind')
  assert.is(readlinkSync(join(stage.pgdata, 'pg_wal')), rig.path('pg01', 'wal'))
  await link()
  await offline('pg_checksums', '--enable', '-D', stage.pgdata)
  const before = await stage.tree('data', 'tmp', 'wal')
  const { code, stderr } = await stage.run()
  assert.is(code, 2, stderr)
  assert.match(stderr, /no base backup can be made: .*pg_wal is a link.*\n.*pg_basebackup with --waldir/)
  assert.is(await stage.tree('data', 'tmp', 'wal'), before)
  // By hand, as the hint has it.
  for (const part of ['data', 'wal']) rmSync(rig.path('pg01', part), { recursive: true })
  const from = ['-h', '127.0.0.13', '-p', `${rig.port}`, '--checkpoint=fast', '--no-sync']
  await offline('pg_basebackup', '-D', stage.pgdata, '--waldir', rig.path('pg01', 'wal'), ...from)
  assert.match(await done(), 'clean')
}

async function tablespaces() {
  const { rig } = stage
  const place = join(rig.dir, 'space')
  await sh(['install', '-d', '-o', 'postgres', '-m', '700', place])
  await rig.sql('pg03', `CREATE TABLESPACE space LOCATION '${place}'`)
  await stage.past('stopped, diverged')
  await offline('pg_checksums', '--enable', '-D', stage.pgdata)
  const before = await stage.tree()
  const { code, stderr } = await stage.run()
  assert.is(code, 2, stderr)
  assert.match(stderr, /there are tablespaces, .*\n.*pg_basebackup with --tablespace-mapping/)
  assert.is(await stage.tree(), before)
  await rig.sql('pg03', 'DROP TABLESPACE space')
}

/** The last: the primary keeps no WAL for anybody. */
async function walGoneThere() {
  const { rig } = stage
  await rig.sql('pg03', 'ALTER SYSTEM SET wal_keep_size = 0')
  await rig.sql('pg03', 'SELECT pg_reload_conf()')
  for (let turn = 0; turn < 3; turn++) {
    await rig.sql('pg03', 'SELECT pg_switch_wal()')
    await rig.sql('pg03', 'CHECKPOINT')
  }
  await stage.past('stopped')
  assert.match(await done(), /beyond rewind, the primary no longer has the WAL from .* on: base backup/)
  await stage.past('crashed, diverged')
  const said = await done()
  assert.match(said, /beyond rewind, the primary no longer has the WAL from .* on: base backup/)
  receipt(said)
}

async function end() {
  const codes = await stage.rig.agents(['pg01', 'pg02', 'pg03'], 'stop')
  await stage.close()
  assert.equal(codes, [0, 0, 0])
  for (const node of ['pg01', 'pg02', 'pg03'] as const) assert.equal(stage.rig.processes(node), [])
}

test.run()
