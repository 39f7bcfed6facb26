import { accepts, append, cut, EMPTY, end, holds, timeline } from './history.ts'
import { acknowledge } from './promises.ts'
import {
  CALLED,
  CUT,
  IDLE,
  type Model,
  type Node,
  noReports,
  PRIMARY,
  PROVEN,
  PUBLISHED,
  quorum,
  REWINDING,
  SIGNALLED,
  STANDBY,
  STOPPED,
  type State,
} from './state.ts'

type Change = (t: State, n: Node) => void
/** Node `at` (and `whom`, or -1) does something that changes the state. */
type Step = (verb: string, at: number, whom: number, change: Change) => void

/** Every step possible in `s`: its name, such as `vote 3 2` (pg03 votes for pg02), and where it leads. */
export function steps(m: Model, s: State, take: (name: string, next: State) => void): void {
  const step: Step = (verb, at, whom, change) => {
    const t: State = { ...s, nodes: s.nodes.slice() }
    change(t, own(t, at))
    acknowledge(m, t)
    forget(m, t)
    take(whom < 0 ? `${verb} ${at + 1}` : `${verb} ${at + 1} ${whom + 1}`, t)
  }
  s.nodes.forEach((n, i) => {
    if (n.role !== STOPPED && s.faults > 0) step('crash', i, -1, (t, o) => crash(m, t, o))
    if (n.role === STOPPED) stopped(m, s, n, i, step)
    else if (n.role === REWINDING) rewinding(s, n, i, step)
    else if (n.role === PRIMARY) primary(m, s, n, i, step)
    else if (n.phase === SIGNALLED && m.rules.inertWhilePromoting) promoting(m, n, i, step)
    else {
      if (n.phase === SIGNALLED) promoting(m, n, i, step)
      standby(m, s, n, i, step)
      if (n.phase !== SIGNALLED) candidate(m, s, n, i, step)
    }
  })
  if (m.variant.cibForgets && s.faults > 0 && s.promoted > m.nodes) {
    step('cib-forgets', 0, -1, (t) => {
      t.faults--
      t.promoted = m.nodes
    })
  }
}

function stopped(m: Model, s: State, n: Node, i: number, step: Step): void {
  const { rules, variant } = m
  const newest = s.nodes.find((o) => o.role === PRIMARY && o.lock === s.promoted)
  const left = newest && !holds(newest.wal, n.wal)
  const kept = variant.publishedBeside
    ? false
    : variant.startAsksPrimary
      ? left
      : n.lock > 0 && n.lock !== s.promoted
  const waits = variant.staysDown !== 'never' && n.lock > 0 && enoughStandbys(m, s)
  if (!(kept && rules.lockFile) && !waits) {
    step('start', i, -1, (t, o) => {
      o.role = STANDBY
      o.checkpoint = EMPTY
      if (!rules.promiseOnDisk) o.promise = 0
      if (left && !variant.publishedBeside && (n.lock > 0 || variant.startAsksPrimary))
        t.broken = 'P6: a node starts on diverged data'
    })
  }
  s.nodes.forEach((p, w) => {
    if (p.role !== PRIMARY || (n.lock === 0 && holds(p.wal, n.wal))) return
    const older = rules.rejoinTimeline && p.lock < timeline(n.wal)
    const known = p.lock >= n.promise && !older && (!variant.publishedBeside || p.lock >= s.promoted)
    const byItself = variant.rejoinByOwnKnowledge || variant.publishedBeside
    if (byItself ? !known : rules.rejoinNewest && p.lock !== s.promoted) return
    step('rejoin', i, w, (_, o) => {
      o.role = REWINDING
      o.follows = w
    })
  })
}

/** The rewind takes its time, and its source may have been superseded, or be gone, when it ends. */
function rewinding(s: State, n: Node, i: number, step: Step): void {
  const source = s.nodes[n.follows] as Node
  step('rejoined', i, n.follows, (_, o) => {
    o.role = STOPPED
    o.follows = -1
    if (source.role !== PRIMARY) return
    if (!holds(source.wal, o.wal)) o.wal = source.wal
    o.lock = 0
  })
}

function primary(m: Model, s: State, n: Node, i: number, step: Step): void {
  if (n.published < n.lock) publish(m, n.lock, i, step)
  if (end(n.wal) < m.records) {
    step('commit', i, -1, (_, o) => {
      o.wal = append(o.wal, o.lock, i)
    })
  }
  if (s.faults === 0) return
  step('demote', i, -1, (t, o) => {
    t.faults--
    halt(m, o)
    o.wal = append(o.wal, o.lock, i) // the shutdown checkpoint
    const waits = m.variant.staysDown === 'demote' && enoughStandbys(m, t)
    if (o.lock === t.promoted && !waits) o.role = STANDBY
    if (m.variant.checkpointProven) o.checkpoint = o.wal
  })
}

function standby(m: Model, s: State, n: Node, i: number, step: Step): void {
  const { rules, variant } = m
  const source = s.nodes[n.follows]
  if (source && (source.role === PRIMARY || source.role === STANDBY) && accepts(source.wal, n.wal)) {
    const newest = source.role === PRIMARY && source.lock === s.promoted
    if (!holds(source.wal, n.wal)) {
      step('stream', i, n.follows, (t) => {
        t.broken = 'P6: a standby streams on diverged data'
      })
    } else if (source.wal !== n.wal || (newest && n.lock > 0)) {
      step('stream', i, n.follows, (_, o) => {
        o.wal = cut(source.wal, end(o.wal) + 1)
        if (newest) o.lock = 0 // its data is proven: the lock file goes
      })
    }
  }
  s.nodes.forEach((p, w) => {
    if (w === i) return
    const epoch = variant.publishedBeside ? p.published : p.lock
    const below = rules.followPromise && epoch < n.promise
    const seems = p.role === PRIMARY || (variant.publishedBeside && p.role === STANDBY && p.published > 0)
    if (seems && n.follows !== w && !below && accepts(p.wal, n.wal)) {
      step('follow', i, w, (_, o) => {
        o.follows = w
        if (rules.promise && rules.followPromises) o.promise = Math.max(o.promise, epoch)
        if (!rules.timelineFromWal) o.note = p.lock
      })
    }
    const again = p.called > 0 && p.called === n.promise && n.follows >= 0
    if (rules.promise ? p.called > n.promise || again : p.phase === CALLED || p.phase === CUT) {
      step('vote', i, w, (t, o) => {
        if (rules.promise) o.promise = p.called
        if (rules.cutBeforeVote) o.follows = -1
        o.vote = o.wal
        for (let c = 0; c < m.nodes; c++) count(m, t, c, i)
      })
    }
    const same = rules.attachPromise ? n.promise === p.called : n.promise >= p.called
    if (variant.earlyAttach && p.called > 0 && same && n.follows !== w) {
      step('attach', i, w, (_, o) => {
        o.follows = w
      })
    }
  })
  if (!rules.cutBeforeVote && n.follows >= 0 && n.vote !== EMPTY) {
    step('cut', i, -1, (_, o) => {
      o.follows = -1
    })
  }
}

/** A promotion that was given up is one that stalls for ever, so the only way out here is a new call. */
function candidate(m: Model, s: State, n: Node, i: number, step: Step): void {
  const { rules, variant } = m
  const known = Math.max(
    variant.publishedBeside ? 0 : s.promoted,
    n.promise,
    n.called,
    n.lock,
    timeline(n.wal),
  )
  const refused = Math.max(known, ...s.nodes.map((o) => o.promise)) // a voter refuses with its promise
  for (const above of refused === known ? [known] : [known, refused]) {
    let epoch = above + 1
    while (rules.numberClasses && epoch % m.nodes !== i) epoch++
    if (epoch > m.epochs) continue
    step(above === known ? 'call' : 'call-above-refusal', i, -1, (_, o) => {
      idle(o)
      o.taken = epoch
      o.called = epoch
      o.phase = CALLED
      if (rules.promise && !variant.promisesLate) o.promise = epoch
    })
  }
  const kept = !rules.promise || n.promise === n.taken
  const checked = s.nodes.every((o) => !isAhead(o.checkpoint, n.wal))
  // From whatever the other has become meanwhile; the agent refuses only to promote to a timeline not above its own.
  if (variant.fetches && n.phase === CUT && kept)
    s.nodes.forEach((source, w) => {
      const fetched = source.wal !== n.wal && accepts(source.wal, n.wal)
      if (w === i || source.role !== STANDBY || !fetched || timeline(source.wal) >= n.taken) return
      step('fetch', i, w, (t, o) => {
        o.wal = source.wal
        for (let v = 0; v < m.nodes; v++) count(m, t, i, v)
      })
    })
  if (n.phase === CALLED && (kept || (variant.promisesLate && n.promise < n.taken))) {
    step('cut-self', i, -1, (t, o) => {
      if (rules.promise) o.promise = o.taken
      o.follows = -1
      o.phase = CUT
      o.votes = 1 << i
      for (let v = 0; v < m.nodes; v++) count(m, t, i, v)
    })
  } else if (n.phase === CUT && kept && checked && (!rules.quorum || ones(n.votes) >= quorum(m))) {
    step('prove', i, -1, (_, o) => {
      o.phase = PROVEN
      o.votes = 0
    })
  } else if (n.phase === PROVEN && variant.publishedBeside) {
    if (n.published < n.taken) publish(m, n.taken, i, step)
    if (kept || !rules.promiseAtPromote) signal(i, step)
  } else if (n.phase === PROVEN && !(rules.promotedRises && n.taken <= s.promoted)) {
    publish(m, n.taken, i, step)
  } else if (n.phase === PUBLISHED && (kept || !rules.promiseAtPromote)) signal(i, step)
}

function signal(i: number, step: Step): void {
  step('signal', i, -1, (_, o) => {
    o.lock = o.taken
    o.phase = SIGNALLED
  })
}

function publish(m: Model, epoch: number, i: number, step: Step): void {
  step('publish', i, -1, (t, o) => {
    t.promoted = m.variant.publishedBeside ? Math.max(t.promoted, epoch) : epoch
    o.published = epoch
    if (o.phase === PROVEN && !m.variant.publishedBeside) o.phase = PUBLISHED
  })
}

function promoting(m: Model, n: Node, i: number, step: Step): void {
  if (n.published < n.taken) publish(m, n.taken, i, step)
  step('promoted', i, -1, (t, o) => {
    if (n.taken <= timeline(n.wal)) t.broken = 'P6: a promotion to a timeline not above its own'
    halt(m, o)
    o.role = PRIMARY
    o.lock = n.taken
    o.wal = append(o.wal, n.taken, i)
    for (let v = 0; v < m.nodes; v++) if ((t.nodes[v] as Node).checkpoint) own(t, v).checkpoint = EMPTY
  })
}

/** Candidate `c`, cut off itself, counts the vote of `v`, unless that one is ahead. */
function count(m: Model, t: State, c: number, v: number): void {
  const mine = t.nodes[c] as Node
  const theirs = t.nodes[v] as Node
  if (mine.phase !== CUT || v === c || theirs.vote === EMPTY) return
  const fresh = !m.rules.freshVotes || !m.rules.promise || theirs.promise === mine.taken
  if (fresh && !ahead(m, theirs, mine)) own(t, c).votes |= 1 << v
}

function ahead({ rules }: Model, voter: Node, mine: Node): boolean {
  const told = rules.timelineFromWal ? timeline(voter.vote) : voter.note
  const own = rules.timelineFromWal ? timeline(mine.wal) : mine.note
  return rules.timelineFirst && told !== own ? told > own : end(voter.vote) > end(mine.wal)
}

/** Drops what can have no effect any more, so that states which differ only there are one state. */
function forget({ rules, variant }: Model, t: State): void {
  const lowest = Math.min(...t.nodes.map((n) => n.promise))
  t.nodes.forEach((n, i) => {
    const given = variant.promisesLate && n.phase === CALLED ? n.promise > n.taken : n.promise !== n.taken
    const dead = rules.promise && rules.promiseAtPromote && n.phase !== SIGNALLED && given
    const heard = rules.promise && rules.promiseOnDisk && !variant.earlyAttach && n.called < lowest
    const read = rules.promise && rules.freshVotes && rules.cutBeforeVote
    const awaited = read && t.nodes.some((c) => c.phase === CALLED && c.taken === n.promise)
    if (dead && n.phase !== IDLE) idle(own(t, i))
    if (heard && n.called > 0) own(t, i).called = 0
    if (read && !awaited && n.vote !== EMPTY) own(t, i).vote = EMPTY
  })
}

/** Timeline first, LSN second. */
const isAhead = (a: number, b: number): boolean =>
  timeline(a) > timeline(b) || (timeline(a) === timeline(b) && end(a) > end(b))

function crash(m: Model, t: State, n: Node): void {
  const { follows } = n
  t.faults--
  halt(m, n)
  n.checkpoint = EMPTY // a transient attribute dies with its node
  if (m.variant.publishedDies) {
    n.published = 0
    t.promoted = Math.max(...t.nodes.map((each) => each.published))
  }
  if (!m.variant.detachedStart) n.follows = follows
}

function halt(m: Model, n: Node): void {
  idle(n)
  n.role = STOPPED
  n.follows = -1
  n.reports = noReports(m)
}

function idle(n: Node): void {
  n.taken = 0
  n.phase = IDLE
  n.votes = 0
}

/** This state's own copy of a node, which may be changed. */
function own(t: State, i: number): Node {
  const n = { ...(t.nodes[i] as Node) }
  t.nodes[i] = n
  return n
}

const enoughStandbys = (m: Model, s: State): boolean =>
  s.nodes.filter((n) => n.role === STANDBY).length >= quorum(m)

function ones(bits: number): number {
  let n = 0
  for (let b = bits; b; b &= b - 1) n++
  return n
}
