import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Ours } from '../lib/evidence.ts'
import { commitsIn, reaches, stretches } from '../lib/lost.ts'

const ours = (timeline: number, history: Ours['history']) => ({ timeline, history }) as Ours

test('from the fork on, each timeline up to where the next one begins', () => {
  const history = [
    { timeline: 1, end: '0/100' },
    { timeline: 9, end: '0/500' },
  ]
  assert.equal(stretches(ours(9, history.slice(0, 1)), { timeline: 9, end: '0/300' }), [
    { timeline: 9, start: '0/300' },
  ])
  assert.equal(stretches(ours(17, history), { timeline: 9, end: '0/300' }), [
    { timeline: 9, start: '0/300', end: '0/500' },
    { timeline: 17, start: '0/500' },
  ])
})

test('committed are the transactions with a COMMIT, prepared ones by their own number', () => {
  const line = (tx: number, desc: string) =>
    `rmgr: Transaction len (rec/tot):     34/    34, tx:        ${tx}, lsn: 0/03000148, prev 0/03000110, desc: ${desc}\n`
  const records =
    line(742, 'COMMIT 2026-11-22 21:00:00.000000 UTC') +
    line(743, 'ABORT 2026-11-22 21:00:01.000000 UTC') +
    line(744, 'PREPARE gid x') +
    line(0, 'COMMIT_PREPARED 744: 2026-11-22 21:00:02.000000 UTC; gid: x')
  assert.equal(commitsIn(records), ['742', '744'])
})

test('the WAL was read to its end: up to the last record, or up to the end of the last file', () => {
  const stderr =
    'pg_waldump: error: error in WAL record at 0/A05ECD0: invalid record length at 0/A05ED48: expected at least 24, got 0\n'
  assert.ok(reaches('0/A05ECD0', { code: 1, stderr }))
  assert.not(reaches('0/A05ED48', { code: 1, stderr }))
  assert.not(reaches('0/A05ECD0', { code: 1, stderr: 'pg_waldump: error: could not open file' }))
  assert.ok(reaches('0/A06DBD0', { code: 0, stderr: '' }), 'its last record is a SWITCH')
})

test.run()
