import { test as sentence } from 'uvu'
import * as assert from 'uvu/assert'
import { type Bounds, breadthFirst, type Explored, play, randomWalks } from './model/search.ts'
import { settle } from './model/settle.ts'
import { initial, type Model, type Node, RULES, STOPPED, type State, VARIANT } from './model/state.ts'
import { steps } from './model/steps.ts'

/** Says the sentence before its counts, which uvu's dots do not. */
const test = (name: string, body: () => void) =>
  sentence(name, () => {
    console.log(name)
    body()
  })

// Small bounds that the whole suite can afford; `npm run model` goes further.
const small: Model = { nodes: 3, epochs: 7, records: 2, faults: 1, rules: RULES, variant: VARIANT }
const five: Model = { ...small, nodes: 5, records: 1 }

const without = (rule: keyof typeof RULES, m: Model): Model => ({
  ...m,
  rules: { ...m.rules, [rule]: false },
})
const built = (variant: Partial<typeof VARIANT>, m: Model): Model => ({
  ...m,
  variant: { ...m.variant, ...variant },
})

let searched = 0
process.on('exit', () => console.log(`# ${searched} states and steps searched`))

function told<T extends Explored>(r: T): T {
  searched += r.states
  console.log(`  ${r.states} states, ${r.depth} deep, ${r.seconds.toFixed(1)} s`)
  return r
}

function holds(m: Model, from: State = initial(m)): void {
  const r = told(breadthFirst(m, from, { states: 1_000_000 }))
  assert.is(r.found, undefined)
  assert.ok(r.complete, 'every state within the bounds was seen')
}

function breaks(promise: string, m: Model, from: State = initial(m), bounds: Partial<Bounds> = {}): void {
  const r = told(breadthFirst(m, from, { states: 1_000_000, wanted: promise, ...bounds }))
  assert.ok(r.found, 'the search finds the violation')
  console.log(`  ${r.found.broken}, in ${r.found.trace.length} steps`)
}

test('three nodes: no commit is lost, no two write, nothing starts diverged, in any order of events', () => {
  holds({ ...small, records: 1, faults: 2 })
})

test('three nodes with FIRST 1', () => holds(built({ sync: 'first' }, small)))
test('four nodes, of which three vote', () => holds({ ...small, nodes: 4, records: 1 }))
test('five nodes with ANY 2', () => holds({ ...five, epochs: 6, records: 2 }))
test('five nodes with FIRST 2', () => holds(built({ sync: 'first' }, { ...five, epochs: 6, records: 2 })))

test('five nodes, random walks far beyond the bounds of the search', () => {
  const m = { ...five, epochs: 40, records: 12, faults: 20 }
  assert.is(told(randomWalks(m, initial(m), 1, 300, 40_000)).found, undefined)
})

// Variants of the protocol that are as safe.

test('A: a voter may attach to the candidate before it is promoted', () => {
  holds(built({ earlyAttach: true }, small))
})

test('A, but attached for an older call than it has promised since: a commit is lost', () => {
  breaks('P1', without('attachPromise', built({ earlyAttach: true }, { ...small, epochs: 5, records: 1 })))
})

test('C: a candidate that must hold the shutdown checkpoint of a demoted primary', () => {
  holds(built({ checkpointProven: true }, small))
})

test('D: a former primary that stays down while Q others run', () => {
  holds(built({ staysDown: 'start' }, small))
})

test('C and D: if the old primary stays down after a demotion too, nobody may ever be primary', () => {
  const stuck = built({ checkpointProven: true, staysDown: 'demote' }, small)
  const fine = built({ checkpointProven: true, staysDown: 'start' }, small)
  for (const favourite of [0, 1, 2]) {
    assert.is(settle(stuck, play(stuck, initial(stuck), 'demote 1'), favourite).steps, -1)
    assert.ok(settle(fine, play(fine, initial(fine), 'demote 1'), favourite).steps > 0)
  }
})

test('F: a lock file that counts only against a running primary without the data', () => {
  holds(built({ startAsksPrimary: true }, small))
})

test('early attach, and the epoch in the CIB beside the promotion or long after it', () => {
  holds(built({ publishedBeside: true, earlyAttach: true }, { ...small, records: 1 }))
})

test('a candidate promises its epoch only when it cuts itself off', () => {
  holds(built({ promisesLate: true }, small))
})

test('as the agent is built: early attach, late promise, and the epoch is an attribute that dies with its node', () => {
  const variant = { publishedBeside: true, publishedDies: true, earlyAttach: true, promisesLate: true }
  holds(built(variant, { ...small, records: 1 }))
})

test('a candidate fetches what another standby holds beyond it', () => {
  holds(built({ fetches: true, earlyAttach: true, promisesLate: true }, { ...small, records: 2 }))
})

test('a restarted standby may come up with its old primary_conninfo', () => {
  holds(built({ detachedStart: false }, small))
})

test('rejoin may go by the promise and the timeline of the node itself', () => {
  holds(built({ rejoinByOwnKnowledge: true }, small))
})

// Each rule, switched off.

const tiny: Model = { ...small, epochs: 5, records: 1 }

test('vote before cut: a commit is lost', () => breaks('P1', without('cutBeforeVote', tiny)))
test('no promise: a commit is lost', () => breaks('P1', without('promise', { ...small, records: 2 })))
test('a promise that a restart forgets: a commit is lost', () =>
  breaks('P1', without('promiseOnDisk', { ...tiny, records: 2 })))
test('LSN without timeline: a commit is lost', () => breaks('P1', without('timelineFirst', small)))
test('the timeline from a note: a commit is lost', () =>
  breaks('P1', without('timelineFromWal', { ...tiny, records: 2 })))
test('one number class for all: a commit is lost', () => breaks('P1', without('numberClasses', tiny)))
test('whoever is reached instead of Q: a commit is lost', () => breaks('P1', without('quorum', tiny)))
test('stale votes counted: a commit is lost', () => breaks('P1', without('freshVotes', tiny)))
test('follow below the promise: a commit is lost', () => breaks('P1', without('followPromise', tiny)))
test('asynchronous at first: a commit is lost', () => breaks('P1', without('syncFromFirst', tiny)))
test('no lock file: a node starts on diverged data', () => breaks('P6', without('lockFile', tiny)))

test('a promise checked before the promotion, but not with it: a commit is lost', () => {
  breaks('P1', without('promiseAtPromote', tiny))
})

test('a vote between the promote signal and the promotion: a commit is lost', () => {
  breaks('P1', without('inertWhilePromoting', tiny))
})

test('following without promising: an older promotion of the same node still happens', () => {
  breaks('P6', without('followPromises', tiny))
})

const firstFailover =
  'call 2, vote 3 2, cut-self 2, prove 2, publish 2, signal 2, promoted 2, follow 3 2, stream 3 2'

test('rejoin to whichever primary is there: a commit is lost', () => {
  const m = without('rejoinNewest', { ...small, faults: 2 })
  breaks('P1', m, play(m, initial(m), `${firstFailover}, crash 2`))
})

// pg02 proves 4 and sleeps; pg03 is promoted to 5, and pg01 follows it; pg02 wakes up.
const sleeper =
  'crash 1, start 1, call 2, vote 3 2, cut-self 2, prove 2, call 3, vote 1 3, cut-self 3, prove 3, publish 3, signal 3, promoted 3, follow 1 3, stream 1 3'

test('a promoted number that a sleeper takes back: a node rejoins it, and a commit is lost', () => {
  const m = without('promotedRises', { ...small, epochs: 6, records: 1, faults: 4 })
  breaks('P1', m, play(m, initial(m), `${sleeper}, publish 2, signal 2, promoted 2, crash 1`))
})

test('the same where rejoin goes by the node itself: no commit is lost', () => {
  const m = built(
    { rejoinByOwnKnowledge: true },
    without('promotedRises', { ...small, epochs: 6, records: 1, faults: 4 }),
  )
  holds(m, play(m, initial(m), `${sleeper}, publish 2, signal 2, promoted 2, crash 1`))
})

// pg02 is promoted, but the CIB does not have it yet; pg05, which did not vote, follows and acknowledges, and crashes.
const unheard =
  'call 2, cut-self 2, vote 3 2, vote 4 2, prove 2, signal 2, promoted 2, attach 3 2, stream 3 2, follow 5 2, stream 5 2, crash 5'

test('rejoin by the promise alone, below the timeline of its own WAL: a commit is lost', () => {
  const beside = built({ publishedBeside: true, earlyAttach: true }, { ...five, epochs: 10, faults: 3 })
  const m = without('rejoinTimeline', beside)
  const rejoined = play(m, initial(m), `${unheard}, rejoin 5 1, rejoined 5 1, start 5`)
  breaks('P1', m, play(m, rejoined, 'crash 2, demote 1, call 1, vote 4 1, cut-self 1'))
  assert.throws(() => play(beside, initial(beside), `${unheard}, rejoin 5 1`), /not possible/)
})

// Liveness.

/** Settles every `nth` reachable state, with each node as Pacemaker's first choice. */
function settleAll(m: Model, nth: number): { worst: number; calls: number; stuck: Node[][] } {
  const seen = { worst: 0, calls: 0, stuck: [] as Node[][], settled: 0 }
  const visit = (s: State, i: number) => {
    if (i % nth) return
    for (let first = 0; first < m.nodes; first++) {
      const r = settle(m, s, first)
      seen.settled++
      if (r.steps < 0) seen.stuck.push(r.last.nodes)
      seen.worst = Math.max(seen.worst, r.steps)
      seen.calls = Math.max(seen.calls, r.calls)
    }
  }
  assert.ok(told(breadthFirst(m, initial(m), { states: 1_000_000, visit })).complete)
  assert.ok(seen.settled > 0)
  console.log(
    `  ${seen.settled} settled, in at most ${seen.worst} steps and ${seen.calls} calls, ${seen.stuck.length} not`,
  )
  return seen
}

test('after the last fault a primary acknowledges within 30 steps and 2 calls, whomever Pacemaker asks first', () => {
  const { worst, calls, stuck } = settleAll(built({ startAsksPrimary: true }, small), 29)
  assert.is(stuck.length, 0)
  assert.ok(worst <= 30)
  assert.ok(calls <= 2)
})

test('so it does with the strict lock file, but where two of three are locked out', () => {
  // After one fault no state that was tried, a third of all, gets stuck.
  const { worst, calls, stuck } = settleAll({ ...small, records: 1, faults: 2 }, 61)
  const lockedOut = (nodes: Node[]) => nodes.filter((n) => n.role === STOPPED && n.lock > 0).length
  assert.ok(stuck.length > 0)
  assert.ok(stuck.every((nodes) => lockedOut(nodes) === 2))
  assert.ok(worst <= 30)
  assert.ok(calls <= 8)
})

test('the strict lock file: killed between the CIB and the promotion, it locks out two of three', () => {
  const story =
    'demote 1, call 1, cut-self 1, call 2, cut-self 2, vote 3 2, prove 2, publish 2, vote 3 1, prove 1, publish 1, crash 1, signal 2, promoted 2, demote 2'
  const strict = { ...small, faults: 3 }
  assert.is(settle(strict, play(strict, initial(strict), story), 2).steps, -1)
  const asks = built({ startAsksPrimary: true }, strict)
  assert.ok(settle(asks, play(asks, initial(asks), story), 2).steps > 0)
})

test('a call that comes to nothing leaves a healthy primary that nobody may follow: it has to step down', () => {
  const s = play(small, initial(small), 'call 2, vote 3 2, commit 1')
  const names: string[] = []
  steps(small, s, (name) => names.push(name))
  assert.not(names.some((name) => /^(follow|stream) 3 1/.test(name)))
  const r = settle(small, s, 1)
  assert.ok(r.trace.includes('demote 1'))
  assert.ok(r.steps > 0)
})

test('five nodes: after the last fault a primary acknowledges within 50 steps', () => {
  const { worst, stuck } = settleAll(built({ startAsksPrimary: true }, { ...five, epochs: 6 }), 199)
  assert.is(stuck.length, 0)
  assert.ok(worst <= 50)
})

sentence.run()
