/** The stories of pgcm-rejoin being killed. Each puts pg01 into the past that it wants first. */
import { mkdirSync, readFileSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import * as assert from 'uvu/assert'
import { sh } from '../../lib/sh.ts'
import { until } from '../../lib/wait.ts'
import { kill } from '../agent/processes.ts'
import { NODES } from '../agent/rig.ts'
import { type Past, type Run, Stage } from './stage.ts'

let stage: Stage
process.on('exit', () => stage?.destroy())

type Story = [string, () => Promise<void>]

/** Where to wait before it is killed. Bytes are parts of what a run that nobody disturbs gets from the primary. */
export const rewinds: Story[] = [
  ['pg_rewind that nobody disturbs', () => measure('stopped, diverged')],
  ['killed while it looks at the primary', () => killed('crashed, diverged', () => stage.gate.shutAfter(1))],
  ['killed behind its receipt', () => killed('crashed, diverged', says('write down'))],
  ['killed in the recovery', () => killed('crashed, diverged', recovery)],
  ['killed while pg_rewind tries', () => killed('crashed, diverged', () => rewinding(0, 'recovering'))],
  ['killed when pg_rewind begins', () => killed('stopped, diverged', () => rewinding(0.03))],
  ['killed in the middle of pg_rewind', () => killed('stopped, diverged', () => rewinding(0.5))],
  ['killed at the end of pg_rewind', () => killed('stopped, diverged', () => rewinding(0.999))],
  ['killed in a rewind, and again before it writes: the mark stays', killedTwice],
  ['its machine goes down at the end of pg_rewind: a base backup', wentDown],
  ['killed behind pg_rewind', () => killed('stopped, diverged', says('rewind'))],
  ['killed in the release', () => killed('stopped, diverged', released)],
  ['killed behind the release', () => killed('stopped, diverged', says('release'))],
  ['killed while it waits for the standby', () => killed('stopped, diverged', says('clean up'))],
  ['pg_rewind is killed', childRewind],
  ['at the end nothing runs', end],
]

export const backups: Story[] = [
  ['a base backup that nobody disturbs', () => measure('beyond')],
  ['killed when the base backup begins', () => killed('beyond', () => copying(0.01))],
  ['killed in the middle of the base backup', () => killed('beyond', () => copying(0.5))],
  ['killed behind the base backup', () => killed('beyond', says('back up'))],
  ['killed at each step of the swap', swaps],
  ['killed before the swap, and the copy is not there: it is made again', copyRemoved],
  [
    'pg_basebackup is killed: the old directory is as it was',
    () => backupEnds(endBackup('pg_basebackup', 'SIGKILL')),
  ],
  [
    'Ctrl-C in the base backup: the old directory is as it was',
    () => backupEnds(endBackup('pgcm-rejoin', 'SIGINT')),
  ],
  ['a full disk in the base backup: the old directory is as it was', fullDisk],
  ['at the end nothing runs', end],
]

type Point = (run: Run) => Promise<unknown>
let wholeBytes = 0

/** Diverged, and what pg_rewind does not take where the checksums differ. */
async function past(which: Past | 'beyond'): Promise<void> {
  await stage.past(which === 'beyond' ? 'stopped, diverged' : which)
  if (which !== 'beyond') return
  const user = ['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--']
  await sh([...user, `${stage.rig.bindir}/pg_checksums`, '--no-sync', '--enable', '-D', stage.pgdata])
}

/** The run that has to end right. */
async function ends(): Promise<string> {
  let said = ''
  for (let turn = 1; ; turn++) {
    try {
      said = await stage.again()
      break
    } catch (error) {
      // The agent was just starting what the killed run had released. It refuses to touch that, and a person looks again.
      if (turn === 3 || !/at work in/.test(String(error))) throw error
    }
  }
  await stage.follows()
  return said
}

async function measure(which: Past | 'beyond') {
  stage = await Stage.make()
  await past(which)
  stage.gate.brought.length = 0
  await ends()
  wholeBytes = Math.max(...stage.gate.brought.map(({ bytes }) => bytes))
}

const rewinding = (part: number, mark = 'rewinding') =>
  stage.gate.shutAfter(Math.max(1000, part * wholeBytes), () => stage.mark() === mark)
const copying = (part: number) => stage.gate.shutAfter(part * wholeBytes)

/** Until a step is done. */
function says(step: string): Point {
  const words = `"event":"done","step":"${step}"`
  return ({ out }) => until(words, { timeoutMs: 60_000, everyMs: 1 }, () => out.stdout.includes(words))
}

/** Until the release has done its work, which it may not have said yet. */
function released({ out }: Run): Promise<unknown> {
  const begun = () => out.stdout.includes('"start","step":"release"')
  return until('it is released', { timeoutMs: 60_000, everyMs: 1 }, () => begun() && stage.mark() === null)
}

/** Until PostgreSQL works on its own data, without anybody connected. */
function recovery(): Promise<unknown> {
  return until('it recovers', { timeoutMs: 60_000, everyMs: 1 }, () => stage.rig.processes('pg01').length > 0)
}

async function reached(point: Point, run: Run): Promise<void> {
  const early = run.ended.then(({ stdout, stderr }) => {
    throw new Error(`it came to its end first: ${stdout}${stderr}`)
  })
  await Promise.race([point(run), early])
  early.catch(() => {})
}

/** Kills it there. Nobody may start what it leaves, unless it is whole; the next run ends right. */
async function killed(which: Past | 'beyond', point: Point): Promise<void> {
  await past(which)
  await killedAt(point)
  await ends()
}

async function killedAt(point: Point): Promise<void> {
  const run = stage.start(['--yes', '--json'])
  await reached(point, run)
  run.child.kill('SIGKILL')
  const { stdout } = await run.ended
  // What it started must not go on: pg_rewind would write into what the next run looks at.
  const alive = async () =>
    (await sh(['pgrep', '-x', 'pg_rewind'], { okCodes: [0, 1] })).stdout !== '' ||
    stage.rig.processes('pg01').length > 0
  if (!/"done","step":"clean up"/.test(stdout))
    await until('its children are gone', { timeoutMs: 5000 }, async () => !(await alive()))
  stage.gate.open()
  if (stage.mark() === 'ready') return
  // Killed in its release it may have done all of that and not have come to say so.
  if (/"start","step":"release"/.test(stdout)) return assert.is(stage.locked(), false)
  const { code, reason } = await stage.tries()
  assert.is(code, 4)
  const why = stage.mark() === null ? /was primary of epoch 9/ : /^pgcm-rejoin was interrupted: run it again$/
  assert.match(reason, why)
}

async function killedTwice() {
  await past('stopped, diverged')
  await killedAt(() => rewinding(0))
  const half = await stage.tree('data')
  // In the trial that its pg_rewind makes before it writes.
  const trial = ({ out }: Run) =>
    stage.gate.shutAfter(1000, () => out.stdout.includes('"start","step":"rewind"'))
  await killedAt(trial)
  assert.is(stage.mark(), 'rewinding')
  assert.is(await stage.tree('data'), half)
  await ends()
}

const BOOT = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')
/** What a run to the primary of epoch 11 leaves when it is killed. */
const mark = (how: string, boot = BOOT) =>
  writeFileSync(stage.rig.path('pg01', 'tmp/rejoin.pending'), `${how} 11 ${boot}`)

async function wentDown() {
  await past('stopped, diverged')
  await killedAt(() => rewinding(0.999))
  mark('rewinding', 'before')
  assert.match(await ends(), 'the machine went down in the middle of pg_rewind: base backup')
}

async function copyRemoved() {
  await past('beyond')
  mark('swapping')
  assert.is((await stage.tries()).code, 4)
  assert.match(await ends(), 'is not there any more: base backup')
}

const pidOf = async (program: string) => {
  const { stdout } = await sh(['pgrep', '-x', '-o', program])
  return Number(stdout)
}

async function childRewind() {
  await past('stopped, diverged')
  const run = stage.start(['--yes'])
  await reached(() => rewinding(0.5), run)
  kill(await pidOf('pg_rewind'), 'SIGKILL')
  const { code, stderr } = await run.ended
  stage.gate.open()
  assert.is(code, 1)
  assert.match(stderr, /pg_rewind: died of SIGKILL after \d+ ms\n.*does not start on pg01 until pgcm-rejoin/)
  assert.match((await stage.tries()).reason, 'pgcm-rejoin was interrupted')
  await ends()
}

/** Between any two renames, and before the mark is set. */
async function swaps() {
  await past('beyond')
  const complete = async () => {
    await past('beyond')
    await killedAt(() => copying(0.5))
    const { rig } = stage
    // As a complete copy, which is what the mark says that it is.
    await sh(['rm', '-rf', rig.path('pg01', 'data.rejoin')])
    const from = ['-h', '127.0.0.13', '-p', `${rig.port}`, '--checkpoint=fast', '--no-sync']
    const user = ['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--']
    await sh([...user, `${rig.bindir}/pg_basebackup`, '-D', rig.path('pg01', 'data.rejoin'), ...from])
    mark('swapping')
  }
  await complete()
  stage.move('data', 'data.before-rejoin')
  assert.is.not((await stage.tries()).code, 0)
  await ends()
  await complete()
  stage.move('data', 'data.before-rejoin')
  stage.move('data.rejoin', 'data')
  assert.is((await stage.tries()).code, 4)
  await ends()
}

/** The old directory is kept until the new one streams, and the agent would still refuse it for its lock file only. */
async function backupEnds(end: (run: Run) => Promise<string>) {
  await past('beyond')
  const before = await stage.tree('data')
  const run = stage.start(['--yes'])
  await reached(() => copying(0.5), run)
  const says = await end(run)
  stage.gate.open()
  const { code, stdout, stderr } = await run.ended
  assert.is(code, 1)
  assert.match(`${stdout}${stderr}`, says)
  assert.is(await stage.tree('data'), before)
  assert.is(stage.mark(), null)
  const { stdout: left } = await sh(['ls', stage.rig.path('pg01')])
  assert.not.match(left, 'rejoin')
  await ends()
}

function endBackup(whom: string, signal: NodeJS.Signals) {
  return async ({ child }: Run) => {
    if (whom === 'pgcm-rejoin') child.kill(signal)
    else kill(await pidOf(whom), signal)
    return whom === 'pgcm-rejoin' ? 'aborted by SIGINT' : 'pg_basebackup: died of SIGKILL'
  }
}

/** pg01's disk is one of its own, and somebody else fills it while the copy is made. */
async function fullDisk() {
  const { rig } = stage
  const home = rig.path('pg01')
  await past('beyond')
  renameSync(home, `${home}.aside`)
  mkdirSync(home)
  await sh(['mount', '-t', 'tmpfs', '-o', 'size=260m', 'pg01', home])
  await sh(['cp', '-a', `${home}.aside/.`, home])
  const fill = (leave: number) => {
    const { bavail, bsize } = statfsSync(home)
    try {
      writeFileSync(`${home}/filler`, Buffer.alloc(Math.max(0, bavail * bsize - leave)))
    } catch (error) {
      // The copy has taken some of it meanwhile: it is full, as it was to be.
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    }
  }
  try {
    await backupEnds(async ({ ended }) => {
      fill(0)
      stage.gate.open()
      await ended
      rmSync(`${home}/filler`)
      return `No space left on device; ${stage.pgdata} is as it was`
    })
    // Where it is full from the start it is refused.
    await past('beyond')
    fill(2 ** 20)
    const before = await stage.tree()
    const { code, stderr } = await stage.run()
    assert.is(code, 2)
    assert.match(
      stderr,
      /a copy of the primary needs about \d+ MiB in .*, and 1 MiB are free\nhint: Make room/,
    )
    assert.is(await stage.tree(), before)
  } finally {
    if (rig.processes('pg01').length > 0) await rig.crash('pg01')
    await sh(['umount', '--lazy', home])
    rmSync(home, { recursive: true })
    renameSync(`${home}.aside`, home)
  }
}

async function end() {
  const { rig } = stage
  if (rig.processes('pg01').length > 0) await rig.crash('pg01')
  const codes = await rig.agents(['pg02', 'pg03'], 'stop')
  await stage.close()
  assert.equal(codes, [0, 0])
  for (const node of NODES) assert.equal(rig.processes(node), [])
}
