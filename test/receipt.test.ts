import { stripVTControlCharacters as bare } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { Failed } from '../lib/errors.ts'
import { history } from '../lib/status.ts'
import { clean, scene } from './failover-scene.ts'

type It = ReturnType<typeof scene>
const last = ({ kept }: It) => kept.at(-1) as Record<string, unknown>

async function shown(it: It, ...flags: string[]): Promise<string> {
  const text: string[] = []
  const { config } = load('status', ['--history', ...flags], { PGCM_CONFIG_FILE: '/dev/null' })
  await history(config, it.world, { write: (more) => text.push(more) })
  return bare(text.join(''))
}

test('the receipt has the longest wait, each step, both primaries, timeline and LSN; the history has the same', async () => {
  const it = scene()
  await it.run()
  const { stallMs, pauseMs, steps, from, to, timeline, lsn, ok, moved } = last(it)
  assert.equal(
    [ok, moved, from, to, timeline, lsn, stallMs],
    [true, true, 'pg01', 'pg02', 10, '0/5000148', 31],
  )
  assert.equal(
    Object.keys(steps as object).sort(),
    [
      'lock',
      'look again',
      'checkpoint',
      'prepare',
      'pause',
      'migrate',
      'promoted',
      'resume',
      'unmigrate',
      'unlock',
    ].sort(),
  )
  assert.match(it.text(), 'the longest wait of a client was 31 ms, as the PgBouncers saw it')
  assert.match(await shown(it), `pg01 -> pg02  held ${pauseMs} ms, longest wait 31 ms  timeline 10`)
})

test('a failed run is remembered, with what it cost', async () => {
  const it = scene(['--yes'], (call) => {
    if (call === 'pg03 pause') throw new Failed('pg03: pause: gone')
  })
  await it.run()
  assert.is(it.kept.length, 1)
  assert.equal([last(it).ok, last(it).error, last(it).moved], [false, 'pg03: pause: gone', false])
  assert.ok((last(it).steps as Record<string, number>).pause)
  assert.match(await shown(it), 'failed: pg03: pause: gone')
})

test('one that was killed is remembered as one that has not ended', async () => {
  const it = scene(['--yes'], (call) => {
    if (call === 'pg01 checkpoint') assert.is(last(it)?.ok, null)
  })
  await it.run()
  assert.equal([it.kept.length, last(it).ok], [1, true])
  it.kept.push({ at: '2026-01-01T00:00:00.000Z', from: 'pg01', to: 'pg02', ok: null })
  assert.match(
    await shown(it),
    '2026-01-01T00:00:00.000Z  pg01 -> pg02  has not ended: it runs, or it was killed',
  )
})

test('--history --json: one record a line', async () => {
  const it = scene()
  await it.run()
  assert.equal(JSON.parse(await shown(it, '--json')), JSON.parse(JSON.stringify(last(it))))
})

test('an etcd that keeps no record does not spoil the failover', async () => {
  const it = scene()
  it.world.keep = () => Promise.reject(new Failed('etcd does not answer'))
  assert.is(await it.run(), undefined)
  clean(it)
  assert.match(it.text(), 'will not show this: etcd does not answer')
})

test('--rejoin: the old primary is back at the end, after clients were let go and the constraint removed', async () => {
  const it = scene(['--yes', '--rejoin'])
  assert.is(await it.run(), undefined)
  clean(it)
  assert.equal(
    it.state.calls.filter((call) => / unmigrate|rejoin|unlock/.test(call)),
    ['pg02 unmigrate', 'pg01 rejoin', 'unlock'],
  )
  assert.is(last(it).rejoined, true)
  assert.match(it.text(), 'pg01 is back: it streams from pg02')
  assert.match(await shown(it), 'pg01 rejoined')
})

test('--rejoin fails: exit 1, saying that the move succeeded; nothing of it is undone', async () => {
  const it = scene(['--yes', '--rejoin'])
  it.state.rejoins = 'pg01 is not clean: diverged. sudo pgcm-rejoin on pg01 does it'
  const error = await it.run()
  assert.is(error?.exitCode, 1)
  assert.match(
    error?.message ?? '',
    'the move succeeded, pg02 is primary; but pg01 is not back: pg01: rejoin: pg01 is not clean',
  )
  assert.match(error?.hint ?? '', 'sudo pgcm-rejoin on pg01')
  clean(it)
  assert.equal([it.state.primary, last(it).moved, last(it).rejoined], ['pg02', true, false])
  assert.match(await shown(it), 'moved, then failed')
})

test('Ctrl-C during the rejoin says that the move succeeded', async () => {
  const it: It = scene(['--yes', '--rejoin'], (call) => {
    if (call !== 'pg01 rejoin') return
    it.abort(new Failed('aborted by SIGINT'))
    throw new Failed('cancelled')
  })
  const error = await it.run()
  assert.match(
    error?.message ?? '',
    'the move succeeded, pg02 is primary; but pg01 is not back: aborted by SIGINT',
  )
  clean(it)
})

test.run()
