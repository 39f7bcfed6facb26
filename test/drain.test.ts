import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { parseDrain } from '../lib/drain.ts'
import { Failed, Refused } from '../lib/errors.ts'
import type { Transaction } from '../lib/transactions.ts'
import { clean, scene } from './failover-scene.ts'

const open = (pid: number, ageMs: number): Transaction => ({
  ...{ pid, since: `17${pid}.000001`, database: 'app', user: 'jane' },
  ...{ client: `10.0.0.21:${pid}`, ageMs, state: 'idle in transaction' },
})
/** Calls that touch something, and those of the drain. */
const did = ({ state }: ReturnType<typeof scene>) =>
  state.calls.filter((call) => /transactions|terminate|pause|migrate|checkpoint/.test(call))

for (const [text, plan] of [
  ['', { how: 'none' }],
  ['wait', { how: 'wait' }],
  ['terminate:1m30s', { how: 'terminate', ageMs: 90_000 }],
  ['terminate:720h', { how: 'terminate', ageMs: 30 * 24 * 3_600_000 }],
] as const)
  test(`--drain=${text}`, () => assert.equal(parseDrain(text), plan))

for (const text of ['terminate', 'terminate:', 'terminate:0', 'terminate:5', 'terminate:721h', 'waits'])
  test(`--drain=${text} is refused, nothing is asked`, async () => {
    const it = scene(['--yes', `--drain=${text}`])
    assert.instance(await it.run(), Refused)
    assert.equal(it.state.calls, [])
  })

test('by default nothing is waited for and nothing is ended', async () => {
  const it = scene()
  it.state.open.push(open(7, 60_000))
  assert.is(await it.run(), undefined)
  assert.is(it.state.open.length, 1)
  assert.not(did(it).some((call) => /transactions|terminate/.test(call)))
})

test('wait: clients are held only once the long transactions have ended', async () => {
  const it = scene(['--yes', '--drain=wait'], (call) => {
    if (call === 'pg01 transactions' && did(it).filter((each) => each === call).length === 2)
      it.state.open.length = 0
  })
  it.state.open.push(open(7, 60_000), open(8, 300))
  assert.is(await it.run(), undefined)
  clean(it)
  assert.equal(did(it).slice(0, 4), [
    'pg01 checkpoint',
    'pg01 transactions',
    'pg01 transactions',
    'pg01 pause',
  ])
  assert.match(
    it.text(),
    'waiting for one transaction: app: user jane from 10.0.0.21:7, idle in transaction for 60.0 s (pid 7)',
  )
})

test('wait: given up at the drain-timeout, which it names; clients were not held', async () => {
  const it = scene(['--yes', '--drain=wait', '--drain-timeout=1s'])
  it.state.open.push(open(7, 60_000))
  const error = await it.run()
  assert.instance(error, Failed)
  assert.match(error?.message ?? '', /^still open after 1s \(drain-timeout\): app: user jane .*pid 7/)
  assert.not(did(it).some((call) => /pause|migrate/.test(call)))
  clean(it)
})

test('wait: Ctrl-C ends the waiting', async () => {
  const it: ReturnType<typeof scene> = scene(['--yes', '--drain=wait'], (call) => {
    if (call === 'pg01 transactions') it.abort(new Failed('aborted by SIGINT'))
  })
  it.state.open.push(open(7, 60_000))
  assert.is((await it.run())?.message, 'aborted by SIGINT')
  clean(it)
})

test('terminate: exactly those that were listed are ended', async () => {
  const it = scene(['--yes', '--drain=terminate:30s'], (call) => {
    if (call === 'pg01 checkpoint') it.state.open.push(open(9, 90_000)) // old, but nobody was asked about it
  })
  it.state.open.push(open(7, 60_000), open(8, 20_000))
  assert.is(await it.run(), undefined)
  clean(it)
  assert.match(
    it.text(),
    'to be ended: app: user jane from 10.0.0.21:7, idle in transaction for 60.0 s (pid 7)',
  )
  assert.match(it.text(), '1 of 1 transactions were ended')
  assert.equal(
    it.state.open.map(({ pid }) => pid),
    [8, 9],
  )
})

test('terminate: a backend that is in another transaction by now is left alone', async () => {
  const it = scene(['--yes', '--drain=terminate:30s'], (call) => {
    if (call === 'pg01 checkpoint') it.state.open[0] = { ...open(7, 10), since: '1800.000002' }
  })
  it.state.open.push(open(7, 60_000))
  assert.is(await it.run(), undefined)
  assert.match(it.text(), '0 of 1 transactions were ended, 1 had come to their own end')
  assert.is(it.state.open.length, 1)
})

test('terminate: nobody is ended without a yes', async () => {
  const it = scene(['--drain=terminate:30s'])
  it.state.open.push(open(7, 60_000))
  assert.instance(await it.run(), Refused)
  assert.match(it.text(), 'to be ended')
  assert.equal(did(it), ['pg01 transactions'])
})

test('terminate: where one cannot be ended nothing goes on', async () => {
  const it = scene(['--yes', '--drain=terminate:30s'])
  it.state.open.push(open(7, 60_000))
  const pg01 = it.apis.get('pg01')
  if (pg01) pg01.terminate = async () => [{ pid: 7, ended: false, error: 'must be a superuser' }]
  assert.is((await it.run())?.message, 'pid 7 could not be ended: must be a superuser')
  assert.not(did(it).some((call) => /pause|migrate/.test(call)))
})

test('--dry-run says whom it would end, and ends nobody', async () => {
  const it = scene(['--dry-run', '--drain=terminate:30s'])
  it.state.open.push(open(7, 60_000))
  assert.is(await it.run(), undefined)
  assert.match(it.text(), 'rpc terminate {pids: 7} -> pg01')
  assert.equal(did(it), ['pg01 transactions'])
})

test.run()
