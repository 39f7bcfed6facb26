import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse } from 'smol-toml'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Body, execute } from '../lib/cli.ts'
import { load } from '../lib/config.ts'
import { ActNow, Failed, Refused } from '../lib/errors.ts'
import { underLock } from '../lib/lock.ts'
import { sh, shown } from '../lib/sh.ts'
import { showConfig } from '../lib/showconfig.ts'
import { until, within } from '../lib/wait.ts'

const nowhere = { PGCM_CONFIG_FILE: '/dev/null' }

for (const [what, body, code] of [
  ['all went well', async () => {}, 0],
  ['it failed and was undone', async () => Promise.reject(new Failed('x')), 1],
  ['it was refused', async () => Promise.reject(new Refused('x')), 2],
  ['somebody must act', async () => Promise.reject(new ActNow('x')), 3],
  ['it is a bug', async () => Promise.reject(new TypeError('x')), 70],
] as [string, Body, number][]) {
  test(`exit ${code} where ${what}`, async () => {
    const quiet = { write: () => true }
    const io = { stdin: {}, stdout: quiet, stderr: quiet, env: nowhere }
    assert.is(await execute('failover', [], io, body), code)
  })
}

test('show-config: a TOML file that gives the same settings again', () => {
  const parsed = load('pgcm', [], {
    ...nowhere,
    PGCM_PAUSE_EXPIRY: '7s',
    PGCM_PGBOUNCER_PASSWORD: 'hush',
    PGCM_ETCD_ENDPOINTS: 'https://a:1,https://b:2',
  })
  const text = showConfig(parsed)
  assert.equal(
    { ...parse(text) },
    {
      'pause-expiry': '7s',
      'pgbouncer-password': '...',
      'etcd-endpoints': ['https://a:1', 'https://b:2'],
    },
  )
  assert.not.match(text, 'hush')
  // With every comment taken off, each default is valid, too.
  const all = parse(text.replace(/^# ([a-z-]+ = )/gm, '$1'))
  assert.is(all['pause-timeout'], '5s')
  assert.not.ok('yes' in all)
})

const never = new AbortController().signal
function lockWorld(lost = new AbortController()) {
  const did: string[] = []
  const lock = async (command: string) => {
    did.push(command)
    return { lost: lost.signal, check: async () => {}, release: async () => void did.push('released') }
  }
  return { did, lost, world: { lock } }
}

test('a command under the lock: 0 where it succeeds, 3 where it fails; the lock is given back', async () => {
  for (const [words, code] of [
    [['true'], 0],
    [['sh', '-c', 'exit 5'], 3],
  ] as [string[], number][]) {
    const { did, world } = lockWorld()
    assert.is(await underLock(world, words, 10, never), code)
    assert.equal(did, [`pgcm lock -- ${words.join(' ')}`, 'released'])
  }
})

test('a lock that is lost ends the command', async () => {
  const { did, lost, world } = lockWorld()
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-lock-'))
  const file = join(dir, 'pid')
  const pid = () => existsSync(file) && Number(readFileSync(file, 'utf8'))
  try {
    const words = ['sh', '-c', `echo $$ >${file}; exec sleep 600`]
    const running = underLock(world, words, 10, never).catch((e) => e)
    await until('the command runs', { timeoutMs: 30_000, everyMs: 10 }, pid)
    lost.abort(new Failed('the lock is lost'))
    const error = await within(30_000, 'its end', running)
    assert.is(error.message, 'the lock is lost; the command was ended')
    assert.throws(() => process.kill(Number(pid()), 0), /ESRCH/)
    assert.is(did.at(-1), 'released')
  } finally {
    if (pid()) await sh(['kill', '-9', String(pid())], { okCodes: [0, 1] })
    rmSync(dir, { recursive: true })
  }
})

test('a signal that came before the command did ends it all the same', async () => {
  const { did, world } = lockWorld()
  const aborted = AbortSignal.abort(new Failed('aborted by SIGINT'))
  const error = await underLock(world, ['sleep', '60'], 10, aborted).catch((e) => e)
  assert.is(error.message, 'aborted by SIGINT')
  assert.is(did.at(-1), 'released')
})

/** Runs a shell command under the lock in a process of its own, that has a terminal or none. */
function locked(command: string, terminal: boolean) {
  const module = (name: string) => JSON.stringify(new URL(`../lib/${name}.ts`, import.meta.url).href)
  const program = `
    import { ChildProcess } from 'node:child_process'
    import { underLock } from ${module('lock')}
    import { abortOnSignals } from ${module('pipeline')}
    const { kill } = ChildProcess.prototype
    ChildProcess.prototype.kill = function (name) {
      console.log('passed on ' + name)
      return kill.call(this, name)
    }
    const lock = async () => ({ lost: new AbortController().signal, check() {}, release() {} })
    const words = ['sh', '-c', ${JSON.stringify(command)}]
    process.exitCode = await underLock({ lock }, words, 10, abortOnSignals().signal, 100)`
  const own = [process.execPath, '--import', 'tsx', '--input-type=module', '--eval', program]
  const argv = terminal ? ['script', '--quiet', '--return', '--command', shown(own), '/dev/null'] : own
  const child = spawn(argv[0] ?? '', argv.slice(1), { stdio: ['pipe', 'pipe', 'inherit'], detached: true })
  let text = ''
  child.stdout.on('data', (more) => {
    text += more
  })
  const says = (what: string) =>
    until(`it says ${what}`, { timeoutMs: 30_000 }, () => (text.includes(what) ? text : ''))
  return { child, says }
}

// Sent twice at once a signal may arrive once, so the sending is looked at.
const ENDS = `trap 'sleep 1; echo end; exit' INT TERM; echo ready; while :; do sleep 0.1; done`

test('a signal to us alone is passed on, and the command takes its time to end', async () => {
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    const { child, says } = locked(ENDS, false)
    await says('ready')
    child.kill(name)
    assert.match(await says('end'), `passed on ${name}`)
  }
})

test('Ctrl-C, which reaches the command by itself, is not passed on, and the command takes its time to end', async () => {
  const { child, says } = locked(ENDS, true)
  await says('ready')
  child.stdin.write('\x03')
  assert.not.match(await says('end'), 'passed on')
})

test('no command, or one that is not there, is refused', async () => {
  const { did, world } = lockWorld()
  assert.instance(await underLock(world, [], 10, never).catch((e) => e), Refused)
  assert.equal(did, [])
  assert.instance(await underLock(world, ['/no/such/command'], 10, never).catch((e) => e), Refused)
  assert.is(did.at(-1), 'released')
})

test.run()
