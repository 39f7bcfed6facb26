import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  compare,
  lastRecord,
  lsn,
  newestTimeline,
  parseControl,
  parseHistory,
  segmentNamed,
  segmentOf,
  startOf,
  walFile,
} from '../lib/wal.ts'

test('an LSN is two halves of one number', () => {
  assert.is(lsn('0/3000148'), 0x3000148n)
  assert.is(lsn('1A/FF'), 0x1a000000ffn)
  assert.throws(() => lsn('3000148'), /is no LSN/)
})

test('a history file, and one of our placeholders', () => {
  const text = '1\t0/3000148\tno recovery target specified\n\n9\t0/50000A0\tno recovery target specified\n'
  assert.equal(parseHistory(text), [
    { timeline: 1, end: '0/3000148' },
    { timeline: 9, end: '0/50000A0' },
  ])
  assert.equal(parseHistory('# pgcm placeholder\n'), [])
})

test("the last record of pg_waldump's output, whatever it complains of afterwards", () => {
  const output = [
    'rmgr: XLOG        len (rec/tot):     30/    30, tx:          0, lsn: 0/02000110, prev 0/020000D8, desc: SWITCH ',
    'rmgr: Transaction len (rec/tot):     46/    46, tx:        731, lsn: 0/03000148, prev 0/03000110, desc: COMMIT 2026-11-22 21:00:00.000000 UTC; inval msgs: catcache 54',
    'pg_waldump: error: error in WAL record at 0/3000148: invalid record length at 0/3000180: expected at least 24, got 0',
  ].join('\n')
  assert.equal(lastRecord(output), {
    lsn: '0/3000148',
    what: 'Transaction COMMIT 2026-11-22 21:00:00.000000 UTC',
  })
  assert.is(lastRecord('pg_waldump: error: could not find file'), undefined)
})

test('the newest timeline is told by the WAL files', () => {
  assert.is(newestTimeline(['0000000900000000000000A1', '00000002.history', 'archive_status']), 9)
  assert.is(newestTimeline([]), 0)
})

test('the file that holds a position', () => {
  const mib = 2 ** 20
  assert.is(walFile(129, '0/5D2D620', 16 * mib), '000000810000000000000005')
  assert.is(walFile(9, 'A1/FF000028', 16 * mib), '00000009000000A1000000FF')
  assert.is(walFile(9, '1/40000000', 1024 * mib), '000000090000000100000001')
})

test('WAL files are counted, whatever their size and timeline', () => {
  for (const segment of [2 ** 20, 2 ** 24, 2 ** 30]) {
    const number = segmentOf('2/C1234567', segment)
    const begin = lsn(startOf(number, segment))
    assert.ok(begin <= lsn('2/C1234567') && lsn('2/C1234567') < begin + BigInt(segment))
  }
  assert.equal(segmentNamed('0000000B00000002000000C1', 2 ** 24), {
    timeline: 11,
    number: segmentOf('2/C1000000', 2 ** 24),
  })
  assert.is(segmentNamed('0000000B.history', 2 ** 24), null)
})

test('pg_controldata', () => {
  const text = `pg_control version number:            1300
Database system identifier:           7312345678901234567
Database cluster state:               shut down
Latest checkpoint location:           0/3000148
Latest checkpoint's REDO location:    0/3000148
Latest checkpoint's TimeLineID:       9
wal_log_hints setting:                on
Bytes per WAL segment:                16777216
Data page checksum version:           1
`
  assert.equal(parseControl(text), {
    systemId: '7312345678901234567',
    state: 'shut down',
    timeline: 9,
    checkpoint: '0/3000148',
    redo: '0/3000148',
    segment: 16777216,
    checksums: true,
    walLogHints: true,
  })
  assert.throws(() => parseControl(''), /does not say Database system identifier/)
})

const theirs = {
  systemId: '7',
  timeline: 18,
  lsn: '0/9000000',
  history: [
    { timeline: 1, end: '0/3000148' },
    { timeline: 9, end: '0/5000000' },
  ],
}
const ours = (timeline: number, last: string, history = [{ timeline: 1, end: '0/3000148' }]) => ({
  systemId: '7',
  timeline,
  last,
  history,
})
for (const [what, our, kind, fork] of [
  ['its last record is before the fork', ours(9, '0/4FFFF88'), 'clean', '0/5000000'],
  ['its last record begins at the fork', ours(9, '0/5000000'), 'diverged', '0/5000000'],
  ['it wrote on after the fork', ours(9, '0/6000000'), 'diverged', '0/5000000'],
  ['it is on the timeline of the primary', ours(18, '0/8000000'), 'clean', '0/9000000'],
  ['it is on an old timeline of the primary', ours(1, '0/2000000', []), 'clean', '0/3000148'],
  ['it was promoted, but the cluster went elsewhere', ours(10, '0/3000200'), 'diverged', '0/3000148'],
  [
    'both left the same timeline, we earlier',
    ours(10, '0/4000000', [{ timeline: 1, end: '0/3000000' }]),
    'diverged',
    '0/3000000',
  ],
  ['it has no ancestor in common', ours(10, '0/3000200', []), 'foreign', undefined],
  ['it is the data of another cluster', { ...ours(9, '0/4000000'), systemId: '8' }, 'foreign', undefined],
] as const) {
  test(`${kind}: ${what}`, () => {
    const relation = compare({ ours: { ...our, history: [...our.history] }, theirs })
    assert.is(relation.kind, kind, relation.why)
    assert.is('fork' in relation ? relation.fork?.end : undefined, fork)
  })
}

test.run()
