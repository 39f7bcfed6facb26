import { spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Failed, Refused } from '../lib/errors.ts'
import { hasEnded } from '../lib/world.ts'
import { clean, scene } from './failover-scene.ts'

const DEAD = 'pgcm-failover here 77'
type It = ReturnType<typeof scene>

/** As a run leaves it that was killed while clients were held. */
function killed(it: It, { lock = true } = {}): It {
  it.state.constraint = 'pg02'
  for (const name of ['pg01', 'app01']) it.state.paused.set(name, DEAD)
  const survey = it.world.survey
  const holder = { host: 'here', pid: 77, command: 'pgcm-failover', since: 'noon', dead: true }
  if (lock)
    it.world.survey = async () => ({
      ...(await survey()),
      lock: it.state.calls.includes('lock') ? null : holder,
    })
  return it
}
const touched = ({ state }: It) =>
  state.calls.filter((call) => !/status$|published|writable|lock check/.test(call))

for (const lock of [true, false])
  test(`what a killed run has left is said and undone before anything else${lock ? '' : ', also where its lease has run out'}`, async () => {
    const it = killed(scene(), { lock })
    assert.is(await it.run(), undefined)
    clean(it)
    assert.equal(touched(it).slice(0, 5), ['lock', 'pg01 unmigrate', 'pg01 resume', 'app01 resume', 'unlock'])
    assert.is(it.state.primary, 'pg02')
    for (const said of [
      ...(lock ? ['its lock: pgcm-failover (pid 77) on here since noon'] : []),
      'its move constraint',
      'the PgBouncer on app01 holds clients until',
      'the clients of 2 PgBouncers go on, at 10.0.0.11',
    ])
      assert.match(it.text(), said)
  })

test('its record says what it was about', async () => {
  const it = killed(scene())
  it.kept.push({ event: 'receipt', at: '2026-01-01T00:00:00.000Z', from: 'pg01', to: 'pg03', ok: null })
  await it.run()
  assert.match(
    it.text(),
    'begun at 2026-01-01T00:00:00.000Z, to move the primary from pg01 to pg03; the primary is pg01\n',
  )
})

test('it had moved: clients go on at the new primary, and the run says why it will not move it again', async () => {
  const it = killed(scene())
  Object.assign(it.state, { primary: 'pg02', published: '10.0.0.12', epoch: 10 })
  it.state.stopped.add('pg01')
  for (const name of it.state.pointsAt.keys()) it.state.pointsAt.set(name, '10.0.0.12')
  const error = await it.run()
  assert.instance(error, Failed, 'not refused: that is where nothing was touched')
  assert.match(error?.message ?? '', 'no synchronous standby')
  assert.match(error?.hint ?? '', 'What the killed run had left is undone')
  clean(it)
})

for (const flag of ['--check', '--dry-run'])
  test(`${flag} says what it found, and leaves it`, async () => {
    const it = killed(scene([flag]))
    await it.run()
    assert.match(it.text(), 'its move constraint')
    assert.equal(touched(it), [])
    assert.is(it.state.paused.size, 2)
  })

test('without a terminal and without --yes nothing is undone', async () => {
  const it = killed(scene([]))
  assert.instance(await it.run(), Refused)
  assert.equal(touched(it), [])
})

test('what a living run holds is not touched', async () => {
  const it = killed(scene(), { lock: false })
  it.state.locked = true
  const error = await it.run()
  assert.instance(error, Refused)
  assert.match(error?.message ?? '', 'held by other')
  assert.equal(touched(it), [])
  assert.is(it.state.paused.size, 2)
})

test('a pause that is not of pgcm-failover forbids it, and is left', async () => {
  const it = scene()
  it.state.paused.set('app01', 'somebody')
  const error = await it.run()
  assert.instance(error, Refused)
  assert.match(error?.message ?? '', 'the one on app01 is paused by somebody')
  assert.equal([...it.state.paused.keys()], ['app01'])
})

test('a pause that passed to somebody else meanwhile is left to them', async () => {
  const it: It = killed(
    scene(['--yes'], (call) => {
      if (call === 'lock' && it.state.calls.filter((each) => each === 'lock').length === 1)
        it.state.paused.set('app01', 'somebody')
    }),
  )
  await it.run()
  assert.is(it.state.paused.get('app01'), 'somebody')
  assert.not(it.state.paused.has('pg01'))
})

test('no primary takes writes: nobody is let go', async () => {
  const it = killed(scene())
  const dead = async () => Promise.reject(new Failed('down'))
  Object.assign(it.state, { primary: null })
  for (const api of it.apis.values()) api.writable = dead as never
  const error = await it.run()
  assert.is(error?.message, 'no primary takes writes')
  assert.match(error?.hint ?? '', 'by themselves')
  assert.is(it.state.paused.size, 2)
  assert.is(it.state.locked, false)
})

test('a holder counts as ended only where the system knows no such process', async () => {
  const { pid } = spawnSync('true')
  assert.equal([pid, process.pid, 1].map(hasEnded), [true, false, false])
  assert.equal([0, -1, 1.5, 'x', undefined].map(hasEnded), Array(5).fill(false))
  // Of another user, as init is to all but root: that it may not be signalled is no sign of its end.
  if (process.getuid?.() === 0) process.seteuid?.(65534)
  try {
    assert.not(hasEnded(1))
  } finally {
    if (process.getuid?.() === 0) process.seteuid?.(0)
  }
})

test.run()
