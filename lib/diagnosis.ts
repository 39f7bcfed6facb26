/** What became of a former primary's data, and what may be done about it. Looks only. */
import type { Obstacle } from './basebackup.ts'
import { named } from './dataprocesses.ts'
import { Expected, messageOf, Refused } from './errors.ts'
import { type Ours, type Theirs, Unreadable } from './evidence.ts'
import type { Local } from './local.ts'
import { counted } from './lost.ts'
import { compare, type Relation, segmentOf } from './wal.ts'

/** What is to be done to the data before PostgreSQL may start on it; `tidy`: it runs, and only something is left over. */
export type Cure = 'none' | 'rewind' | 'finish rewind' | 'base backup' | 'finish swap' | 'tidy'

export interface Diagnosis {
  primary: string
  address: string
  /** Lines for people. */
  evidence: string[]
  cure: Cure
  verdict: string
  /** The primary's last checkpoint is of another timeline: pg_rewind would not see that the histories have parted. */
  stale?: boolean
  /** Absent where an earlier run has already changed the data. */
  relation?: Relation
}

/**
 * The evidence and what follows from it.
 * @throws Refused where this is no node to rejoin, there is none to rejoin to, or one of them cannot be asked
 */
export async function diagnose(local: Local, signal: AbortSignal): Promise<Diagnosis> {
  try {
    return await look(local, signal)
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof Expected) || error instanceof Refused) throw error
    throw new Refused(messageOf(error), error.hint ?? 'Nothing was touched.', { cause: error })
  }
}

async function look(local: Local, signal: AbortSignal): Promise<Diagnosis> {
  const { node } = local
  const primary = await local.primary()
  const runs = await local.running()
  if (primary?.name === node || runs === 'primary')
    throw new Refused(`${node} is the primary`, 'pgcm-failover moves the primary elsewhere.')
  if (!primary)
    throw new Refused(
      'there is no primary to rejoin to',
      'crm_mon shows why; without one this data may be the newest.',
    )
  const evidence: string[] = []
  const found = (cure: Cure, verdict: string, more: Partial<Diagnosis> = {}): Diagnosis => ({
    ...{ primary: primary.name, address: primary.address, evidence, cure, verdict, ...more },
  })
  if (runs !== null) {
    const left = await local.leftovers()
    if (left.length > 0)
      return found('tidy', `it runs as a standby; once it streams ${left.join(' and ')} can go`)
    if (runs === 'streaming') throw new Refused(`${node} streams already`, 'There is nothing to do.')
    throw new Refused(
      `PostgreSQL runs on ${node} as a standby that does not stream`,
      'Its log says why. pgcm-rejoin cures stopped ones.',
    )
  }
  const working = await local.occupants()
  const strangers = working.filter(({ ours }) => !ours)
  if (strangers.length > 0)
    throw new Refused(`at work in ${local.agent.pgdata}: ${named(strangers)}`, 'It has to be stopped first.')
  const { lock, promise, promoted, mark } = await local.marks()
  const theirs = await local.theirs(primary.address)
  evidence.push(
    `cluster: epoch ${promoted}, primary ${primary.name} (${primary.address}) on timeline ${theirs.timeline} at ${theirs.lsn}`,
    `${node}: ${lock === null ? 'has no lock file' : `was primary of epoch ${lock}`}`,
  )
  if (working.length > 0)
    evidence.push(`still at work for a pgcm-rejoin that was killed, and ended first: ${named(working)}`)
  // Whoever is below what was promoted, or below what this node promised, is a primary of the past.
  if (theirs.timeline < promoted || theirs.timeline < (promise ?? 0))
    throw new Refused(
      `${primary.name} is on timeline ${theirs.timeline}, older than ${theirs.timeline < promoted ? `the promoted epoch ${promoted}` : `epoch ${promise}, which ${node} promised`}`,
      'It cannot be followed. Wait until a newer primary is there.',
    )
  permit(await local.noTablespaces(theirs))
  const stage = mark?.stage ?? null
  const stale = theirs.checkpointTimeline !== theirs.timeline
  const backup = async (why: string, relation?: Relation): Promise<Diagnosis> => {
    permit(await local.noBackup(theirs), `${why}, and no base backup can be made: `)
    return found('base backup', `beyond rewind, ${why}: base backup`, { ...(relation && { relation }) })
  }
  // Half rewound to one history it cannot be rewound to another; whole, it may have parted from the newer one.
  if (mark && stage !== 'recovering' && mark.timeline !== theirs.timeline)
    return backup(`an earlier pgcm-rejoin was interrupted, and timeline ${theirs.timeline} is newer`)
  if (stage === 'ready') {
    permit(await local.noStart(theirs))
    return found('none', 'ready: an earlier pgcm-rejoin has cured the data')
  }
  if (stage === 'swapping')
    return (await local.copied())
      ? found('finish swap', 'the base backup of an earlier pgcm-rejoin is complete')
      : backup('the base backup of an earlier pgcm-rejoin is not there any more')
  if (stage === 'rewinding') {
    if (mark?.rebooted) return backup('the machine went down in the middle of pg_rewind')
    evidence.push('its data: an earlier pgcm-rejoin was interrupted in the middle of pg_rewind')
    // The last thing that pg_rewind writes is pg_control, with this state.
    if ((await local.state()) === 'in archive recovery')
      return found('finish rewind', 'ready: pg_rewind had come to its end')
    const beyond = await local.beyondRewind(primary.address, theirs, signal)
    if (beyond !== undefined) return backup(beyond)
    permit(await local.noRewind(theirs))
    return found('rewind', 'interrupted: pg_rewind again', { stale })
  }
  if (!(await local.hasData())) return backup('there is no data directory')
  const ours = await local.ours(signal).catch((error) => {
    if (error instanceof Unreadable) return error
    throw error
  })
  if (ours instanceof Unreadable) {
    if ((await local.systemId()) !== theirs.systemId) throw foreign(local, 'another system identifier')
    return backup(messageOf(ours))
  }
  evidence.push(
    `its data: ${ours.control.state}; last record ${ours.lastWhat} at ${ours.last} on timeline ${ours.timeline}`,
  )
  // With five nodes the CIB may not know yet of an epoch that this node has streamed: its own WAL does.
  if (theirs.timeline < ours.timeline)
    throw new Refused(
      `${primary.name} is on timeline ${theirs.timeline}, older than this node's own WAL, which is on ${ours.timeline}`,
      'It cannot be followed. Wait until a newer primary is there.',
    )
  const relation = compare({ ours: { ...ours, systemId: ours.control.systemId }, theirs })
  evidence.push(`histories: ${relation.why}`)
  const lacks = (position: string) =>
    segmentOf(position, theirs.segment) < theirs.oldest
      ? `the primary no longer has the WAL from ${position} on`
      : undefined
  switch (relation.kind) {
    case 'foreign':
      throw foreign(local, relation.why)
    case 'clean': {
      const why = lacks(ours.last)
      if (why) return backup(why, relation)
      permit(await local.noStart(theirs))
      return found('none', "clean: its history is part of the primary's", { relation })
    }
    case 'diverged': {
      const lost = await local.lost(relation.fork, signal)
      evidence.push(
        `lost: ${counted(lost.commits)} that committed here behind ${relation.fork.end}${lost.commits.length > 0 ? `: ${few(lost.commits)}` : ''}`,
        ...(lost.gap ? [`lost: ${lost.gap}`] : []),
      )
      const why =
        lacks(relation.fork.end) ??
        unfit(ours, theirs) ??
        (await beyond(local, primary.address, ours, theirs, signal))
      if (why) return backup(why, relation)
      permit(await local.noRewind(theirs))
      return found('rewind', `diverged: pg_rewind to ${relation.fork.end}`, { relation, stale })
    }
  }
}

/** What in the two pg_control makes pg_rewind impossible, or its result wrong. */
function unfit({ control }: Ours, theirs: Theirs): string | undefined {
  if (!control.checksums && !control.walLogHints) return 'neither data checksums nor wal_log_hints are on'
  // It takes over the primary's pg_control, and leaves most pages as they are.
  if (control.checksums !== theirs.checksums)
    return `data checksums are ${control.checksums ? 'on' : 'off'} here and ${theirs.checksums ? 'on' : 'off'} on the primary`
  return undefined
}

/** pg_rewind's own word. It answers only for a server that was shut down; after a crash it is asked during the cure. */
const beyond = async (local: Local, address: string, ours: Ours, theirs: Theirs, signal: AbortSignal) =>
  ours.control.state.startsWith('shut down') ? local.beyondRewind(address, theirs, signal) : undefined

const few = (all: string[]) => (all.length > 10 ? `${all.slice(0, 10).join(' ')} ...` : all.join(' '))

const foreign = ({ agent }: Local, why: string) =>
  new Refused(
    `the data in ${agent.pgdata} is of another cluster: ${why}`,
    'If it may go, move it away and run pgcm-rejoin again: it makes a base backup then.',
  )

function permit(obstacle: Obstacle | undefined, prefix = ''): void {
  if (obstacle) throw new Refused(`${prefix}${obstacle.why}`, obstacle.cure)
}
