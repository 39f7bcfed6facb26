import { append, EMPTY } from './history.ts'

/** The promotion protocol of DESIGN.md ("Promotion needs proof") as states; steps.ts has what may happen in them.
 *
 * Nothing here has a clock: every message may be late, every process may stall between two steps or for ever,
 * Pacemaker may ask any standby to promote at any time, several at once, while the old primary lives. So a
 * partition needs no state of its own: it is a message that has not come yet, and replication may go on
 * through it. To keep the search small, what nobody can tell apart is one step: a voter's promise, cut and
 * vote (a crash between them is a vote that is never used), and a candidate counts a vote when it is cast
 * (reading it later is going on later). */

export const STOPPED = 0
export const STANDBY = 1
export const PRIMARY = 2
/** Stopped, with pgcm-rejoin at work on it. */
export const REWINDING = 3

/** How far a node's promotion has come. */
export const IDLE = 0
export const CALLED = 1
/** It has cut itself off too: from here on it can compare votes with its own WAL. */
export const CUT = 2
export const PROVEN = 3
/** Its epoch is in the CIB as promoted. */
export const PUBLISHED = 4
/** The lock file is written and PostgreSQL has been told: it will promote, whatever becomes of the agent. */
export const SIGNALLED = 5

export type Node = {
  role: number
  wal: number
  /** On disk: this node acknowledges nothing below this epoch. Whoever has promised e has voted for e. */
  promise: number
  /** primary_conninfo: the node it points at, -1 when empty. */
  follows: number
  /** PGSQL.lock: the epoch in which this node was primary, 0 for none. */
  lock: number
  /** The epoch of its promotion under way, and how far that has come. */
  taken: number
  phase: number
  /** Votes it has counted, a bit for each node. */
  votes: number
  /** The attribute with which it called, which stays and may be read late. */
  called: number
  /** The WAL of its own vote, while a candidate may still count it. */
  vote: number
  /** Its own promoted number in the CIB (one writer each; the cluster's is the highest). */
  published: number
  /** The WAL a demotion ended with, while a candidate has to hold it (variant C). */
  checkpoint: number
  /** The timeline the agent noted down when it last followed (only where timelineFromWal is off). */
  note: number
  /** What each standby has reported to this primary, in records (only for ANY k, k > 1). */
  reports: number[]
}

export type State = {
  nodes: Node[]
  /** The promoted number in the CIB. The called one is not modelled: the proof does without it (B'). */
  promoted: number
  /** The longest acknowledged history. */
  acked: number
  /** How many more faults may happen. */
  faults: number
  /** The promise this state breaks, if any. */
  broken: string
}

/** What makes the protocol safe. Each can be switched off, and test/model.test.ts shows what then happens. */
export const RULES = {
  /** A new primary waits for its standbys from its first commit on. */
  syncFromFirst: true,
  /** A voter is detached before it reads off the position it tells. */
  cutBeforeVote: true,
  /** A voter promises to have nothing to do with an older epoch. */
  promise: true,
  /** The promise outlives a restart. */
  promiseOnDisk: true,
  /** Positions compare by timeline first, LSN second. */
  timelineFirst: true,
  /** The timeline a vote tells is that of its last WAL record, not one noted down on following. */
  timelineFromWal: true,
  /** Each node takes its epochs from a class of its own. */
  numberClasses: true,
  /** A candidate needs the votes of Q nodes, not of whoever it reaches. */
  quorum: true,
  /** Only votes for the candidate's own epoch count. */
  freshVotes: true,
  /** A standby follows no primary below its promise. */
  followPromise: true,
  /** To follow a primary is to promise its epoch, which ends any older promotion of this node's own. */
  followPromises: true,
  /** The promise still is the candidate's epoch at the very moment PostgreSQL is told to promote. */
  promiseAtPromote: true,
  /** Once PostgreSQL has been told to promote, the node votes for nobody and follows nobody. */
  inertWhilePromoting: true,
  /** The promoted number in the CIB only rises; a candidate that finds a higher one gives up. */
  promotedRises: true,
  /** pgcm-rejoin goes only by a primary whose epoch is the CIB's promoted one. */
  rejoinNewest: true,
  /** And, where it goes by the promise, never by one below the timeline of the node's own WAL. */
  rejoinTimeline: true,
  /** A former primary is kept down by its lock file if the cluster has moved on. */
  lockFile: true,
  /** A voter attaches to a candidate (variant A) only while its promise is that candidate's epoch. */
  attachPromise: true,
}

/** Ways to build it, all meant to be safe. */
export const VARIANT = {
  sync: 'any' as 'any' | 'first',
  /** A: a voter points primary_conninfo at the candidate as soon as it has told its vote. */
  earlyAttach: false,
  /** C: a candidate must hold the shutdown checkpoint of a primary that was demoted. */
  checkpointProven: false,
  /** D: a former primary is not started while Q others run as standbys; or not even after a demotion. */
  staysDown: 'never' as 'never' | 'start' | 'demote',
  /** F: not the lock file alone keeps a node down, but a running primary of the promoted epoch without its data. */
  startAsksPrimary: false,
  /** As the agent is built: the epoch goes to the CIB beside the promotion, not before it, and may come long after
   * it or never; who follows or rejoins goes by what is in the CIB, or by an attribute that may be stale; the
   * lock file keeps nobody down for sure; and the next epoch is chosen without a look at the CIB. */
  publishedBeside: false,
  /** A candidate promises its epoch when it cuts itself off, not when it calls. */
  promisesLate: false,
  /** The promoted number of a node is an attribute, which dies with the node. */
  publishedDies: false,
  /** A candidate that is cut off takes over what another standby of its timeline holds beyond it, and counts anew. */
  fetches: false,
  /** The agent empties primary_conninfo before it starts PostgreSQL. */
  detachedStart: true,
  /** Rejoin goes by what the node itself knows: no primary below its promise or its own timeline. */
  rejoinByOwnKnowledge: false,
  /** A fault more: the CIB goes back to an old promoted number (a partition's copy won, a restore). */
  cibForgets: false,
}

export type Model = {
  nodes: number
  /** Bounds: the highest epoch that is called, records in a WAL by commits, crashes and demotions together. */
  epochs: number
  records: number
  faults: number
  rules: typeof RULES
  variant: typeof VARIANT
}

export const quorum = (m: Model): number => Math.floor(m.nodes / 2) + 1
/** k of `FIRST k` and `ANY k`. */
export const syncs = (m: Model): number => m.nodes - quorum(m)

/** pg01 is primary in the first epoch of its class, and the others stream from it. */
export function initial(m: Model): State {
  const epoch = m.nodes
  const wal = append(EMPTY, epoch, 0)
  const nodes = Array.from({ length: m.nodes }, (_, i) => ({
    role: i === 0 ? PRIMARY : STANDBY,
    wal,
    promise: 0,
    follows: i === 0 ? -1 : 0,
    lock: i === 0 ? epoch : 0,
    taken: 0,
    phase: IDLE,
    votes: 0,
    called: 0,
    vote: EMPTY,
    published: i === 0 ? epoch : 0,
    checkpoint: EMPTY,
    note: m.rules.timelineFromWal ? 0 : epoch,
    reports: noReports(m),
  }))
  return { nodes, promoted: epoch, acked: wal, faults: m.faults, broken: '' }
}

const NONE: number[] = []

export const noReports = (m: Model): number[] =>
  syncs(m) > 1 && m.variant.sync === 'any' ? new Array<number>(m.nodes).fill(0) : NONE

/** The state as a row of small numbers; returns the row's length. */
export function pack(s: State, out: Uint16Array): number {
  let i = 0
  out[i++] = s.promoted
  out[i++] = s.acked
  out[i++] = s.faults
  for (const n of s.nodes) {
    out[i++] = n.role + 4 * n.phase + 64 * (n.follows + 1)
    out[i++] = n.wal
    out[i++] = n.promise
    out[i++] = n.lock
    out[i++] = n.taken
    out[i++] = n.votes
    out[i++] = n.called
    out[i++] = n.vote
    out[i++] = n.checkpoint
    out[i++] = n.published
    out[i++] = n.note
    for (const r of n.reports) out[i++] = r
  }
  return i
}

export function unpack(m: Model, row: Uint16Array): State {
  const at = (i: number) => row[i] as number
  const width = (row.length - 3) / m.nodes
  const nodes: Node[] = []
  for (let i = 3; i < row.length; i += width) {
    const bits = at(i)
    nodes.push({
      role: bits & 3,
      phase: (bits >> 2) & 15,
      follows: (bits >> 6) - 1,
      wal: at(i + 1),
      promise: at(i + 2),
      lock: at(i + 3),
      taken: at(i + 4),
      votes: at(i + 5),
      called: at(i + 6),
      vote: at(i + 7),
      checkpoint: at(i + 8),
      published: at(i + 9),
      note: at(i + 10),
      reports: width > 11 ? Array.from(row.subarray(i + 11, i + width)) : NONE,
    })
  }
  return { nodes, promoted: at(0), acked: at(1), faults: at(2), broken: '' }
}
