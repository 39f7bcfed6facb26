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
  const cleanUp = new AbortController()
  try {
    const words = ['sh', '-c', `echo $$ >${file}; exec sleep 600`]
    const running = underLock(world, words, 10, cleanUp.signal).catch((e) => e)
    const pid = () => existsSync(file) && Number(readFileSync(file, 'utf8'))
    await until('the command runs', { timeoutMs: 30_000, everyMs: 10 }, pid)
    lost.abort(new Failed('the lock is lost'))
    const error = await within(30_000, 'its end', running)
    assert.is(error.message, 'the lock is lost; the command was ended')
    assert.throws(() => process.kill(Number(pid()), 0), /ESRCH/)
    assert.is(did.at(-1), 'released')
  } finally {
    cleanUp.abort()
    rmSync(dir, { recursive: true })
  }
})

test('a signal that came before the command did ends it all the same', async () => {
  const { did, world } = lockWorld()
  assert.is(await underLock(world, ['sleep', '60'], 10, AbortSignal.abort()), 3)
  assert.is(did.at(-1), 'released')
})

test('no command, or one that is not there, is refused', async () => {
  const { did, world } = lockWorld()
  assert.instance(await underLock(world, [], 10, never).catch((e) => e), Refused)
  assert.equal(did, [])
  assert.instance(await underLock(world, ['/no/such/command'], 10, never).catch((e) => e), Refused)
  assert.is(did.at(-1), 'released')
})

test.run()
