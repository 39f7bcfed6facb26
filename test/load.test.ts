import { setTimeout as sleep } from 'node:timers/promises'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Ack, figures, report, type Session, startLoad, summary, verify } from '../bench/load.ts'

const paths = [
  { name: 'pg01', host: '127.0.0.1', port: 1 },
  { name: 'app01', host: '127.0.0.1', port: 2 },
]
const ack = (id: number, at: number, extra: Partial<Ack> = {}): Ack => ({
  id,
  path: id % 2,
  began: at - 2,
  at,
  timeline: 1,
  ...extra,
})

test('the longest gap counts the silence at both ends', () => {
  const acks = [ack(1, 100), ack(2, 130)]
  assert.is(figures(acks, [], 0, 140).longestGapMs, 100)
  const late = figures(acks, [], 90, 500)
  assert.is(late.longestGapMs, 370)
  assert.is(late.gapAt, 130)
  assert.is(figures([], [], 0, 1000).longestGapMs, 1000)
})

test('a report counts errors by kind and gaps by path', () => {
  const acks = [ack(1, 10), ack(2, 20), ack(3, 30), ack(4, 400)]
  const errors = [
    { at: 50, path: 'pg01', kind: '57P01 terminating', unknown: true },
    { at: 60, path: 'pg01', kind: '57P01 terminating', unknown: false },
  ]
  const r = report('r1', paths, acks, errors, 410)
  assert.is(r.longestGapMs, 370)
  assert.equal(r.errorKinds, { '57P01 terminating': 2 })
  assert.is(r.paths.pg01?.errors, 2)
  assert.is(r.paths.app01?.longestGapMs, 380)
  assert.match(summary(r), /^4 commits in 0\.4 s, 2 errors \(2 x 57P01 terminating\), longest gap 370 ms/)
})

test('a transaction of an older timeline that began after a newer one was acknowledged is a second writer', () => {
  const fine = [ack(1, 10), ack(2, 20, { timeline: 5 }), ack(3, 21, { began: 19 })]
  assert.is(report('r1', paths, fine, [], 50).twoWriters, 0)
  const bad = [...fine, ack(4, 30, { began: 21 })]
  assert.is(report('r1', paths, bad, [], 50).twoWriters, 1)
  assert.equal(report('r1', paths, bad, [], 50).timelines, [1, 5])
})

test('verify tells missing rows from unacknowledged ones', () => {
  const verdict = verify([ack(1, 1), ack(2, 2), ack(3, 3)], [1, 3, 9])
  assert.equal(verdict, { acknowledged: 3, present: 3, missing: [2], unacknowledged: [9] })
})

function fakeSession(commit: (id: number) => Promise<void>): Session {
  let id = 0
  return {
    begin: async () => {},
    insert: async (_run, given) => {
      id = given
      return 1
    },
    commit: () => commit(id),
    end: () => {},
  }
}

test('the load keeps to its rate and its bound, and spreads over all paths', async () => {
  const connects: string[] = []
  const load = startLoad({
    paths,
    user: 'u',
    database: 'd',
    connections: 4,
    rate: 400,
    maxTransactions: 60,
    connect: async (path) => {
      connects.push(path.name)
      return fakeSession(async () => {})
    },
  })
  await load.finished
  const r = await load.stop()
  assert.is(r.commits, 60)
  assert.is(r.errors, 0)
  assert.ok(r.elapsedMs >= 140, `60 transactions at 400 a second took ${r.elapsedMs} ms`)
  assert.equal(connects.sort(), ['app01', 'app01', 'pg01', 'pg01'])
})

test('an error drops the connection, is recorded with its outcome, and the load goes on', async () => {
  let connects = 0
  const load = startLoad({
    paths,
    user: 'u',
    database: 'd',
    connections: 1,
    rate: 1000,
    maxTransactions: 5,
    connect: async () => {
      connects++
      return fakeSession(async (id) => {
        if (id === 3) throw Object.assign(new Error('server closed the connection'), { code: '08P01' })
      })
    },
  })
  await load.finished
  const r = await load.stop()
  assert.is(connects, 2)
  assert.equal(
    load.acks.map((a) => a.id),
    [1, 2, 4, 5],
  )
  assert.is(load.errors[0]?.unknown, true)
  assert.equal(r.errorKinds, { '08P01 server closed the connection': 1 })
})

test('commitAfter waits for a commit that began later, up to its deadline', async () => {
  let stuck = false
  const load = startLoad({
    paths,
    user: 'u',
    database: 'd',
    connections: 2,
    rate: 500,
    maxMs: 5_000,
    connect: async () =>
      fakeSession(() => (stuck ? sleep(60_000, undefined, { ref: false }) : Promise.resolve())),
  })
  assert.is(await load.commitAfter(1_000), true)
  assert.is(await load.commitAfter(1_000, load.now(), 'app01'), true)
  stuck = true
  assert.is(await load.commitAfter(100, load.now() + 50), false)
  stuck = false
  assert.ok(load.figures().commits > 0)
})

test.run()
