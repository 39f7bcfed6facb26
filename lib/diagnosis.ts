/** What became of a former primary's data, and what may be done about it. Looks only. */
import { Refused } from './errors.ts'
import type { Local } from './local.ts'
import { compare, type Relation } from './wal.ts'

/** What is to be done to the data before PostgreSQL may start on it. */
export type Cure = 'none' | 'rewind' | 'base backup' | 'finish swap'

export interface Diagnosis {
  primary: string
  address: string
  /** Lines for people. */
  evidence: string[]
  cure: Cure
  verdict: string
  /** Absent where an earlier run has already changed the data. */
  relation?: Relation
}

/**
 * The evidence and what follows from it.
 * @throws Refused where this is no node to rejoin, or there is none to rejoin to
 */
export async function diagnose(local: Local, signal: AbortSignal): Promise<Diagnosis> {
  const { node, agent } = local
  const primary = await local.primary()
  const runs = await local.running()
  if (primary?.name === node || runs === 'primary')
    throw new Refused(`${node} is the primary`, 'pgcm-failover moves the primary elsewhere.')
  if (!primary)
    throw new Refused(
      'there is no primary to rejoin to',
      'crm_mon shows why; without one this data may be the newest.',
    )
  if (runs === 'streaming') throw new Refused(`${node} streams already`, 'There is nothing to do.')
  if (runs === 'standby')
    throw new Refused(
      `PostgreSQL runs on ${node} as a standby that does not stream`,
      'Its log says why. pgcm-rejoin cures stopped ones.',
    )
  const { lock, promise, promoted, stage } = await local.marks()
  const theirs = await local.theirs(primary.address)
  const evidence = [
    `${node} was primary of epoch ${lock ?? '(no lock file)'}; the cluster is at epoch ${promoted}, its primary is ${primary.name} (${primary.address}) on timeline ${theirs.timeline} at ${theirs.lsn}`,
  ]
  // Whoever is below what was promoted, or below what this node promised, is a primary of the past.
  if (theirs.timeline < promoted || theirs.timeline < (promise ?? 0))
    throw new Refused(
      `${primary.name} is on timeline ${theirs.timeline}, older than ${theirs.timeline < promoted ? `the promoted epoch ${promoted}` : `epoch ${promise}, which ${node} promised`}`,
      'It cannot be followed. Wait until a newer primary is there.',
    )
  const found = (cure: Cure, verdict: string, relation?: Relation): Diagnosis => ({
    ...{ primary: primary.name, address: primary.address, evidence },
    ...{ cure, verdict, ...(relation && { relation }) },
  })
  if (stage === 'ready') return found('none', 'ready: an earlier pgcm-rejoin has cured the data')
  if (stage === 'swapping')
    return found('finish swap', 'the base backup of an earlier pgcm-rejoin is complete')
  if (stage === 'rewinding') {
    evidence.push('an earlier pgcm-rejoin was interrupted in the middle of pg_rewind')
    // The last thing that pg_rewind writes is pg_control, with this state.
    if ((await local.state()) === 'in archive recovery')
      return found('none', 'ready: pg_rewind had come to its end')
    const beyond = await local.beyondRewind(primary.address, signal)
    if (beyond === undefined) return found('rewind', 'interrupted: pg_rewind again')
    evidence.push(beyond)
    return found(await backupOr(local, beyond), 'beyond rewind: base backup')
  }
  const ours = await local.ours(signal)
  evidence.push(
    `its data: ${ours.control.state}, checkpoint ${ours.control.checkpoint} on timeline ${ours.control.timeline}; last record ${ours.lastWhat} at ${ours.last} on timeline ${ours.timeline}`,
  )
  // With five nodes the CIB may not know yet of an epoch that this node has streamed: its own WAL does.
  if (theirs.timeline < ours.timeline)
    throw new Refused(
      `${primary.name} is on timeline ${theirs.timeline}, older than this node's own WAL, which is on ${ours.timeline}`,
      'It cannot be followed. Wait until a newer primary is there.',
    )
  const relation = compare({ ours: { ...ours, systemId: ours.control.systemId }, theirs })
  evidence.push(relation.why)
  switch (relation.kind) {
    case 'foreign':
      throw new Refused(
        `the data in ${agent.pgdata} is of another cluster: ${relation.why}`,
        'Move it away if it may go, and let Ansible make this standby anew.',
      )
    case 'clean':
      return found('none', "clean: its history is part of the primary's", relation)
    case 'diverged': {
      if (ours.control.checksums || ours.control.walLogHints)
        return found('rewind', `diverged: pg_rewind to ${relation.fork.end}`, relation)
      const why = 'neither data checksums nor wal_log_hints are on'
      return found(await backupOr(local, why), `beyond rewind, ${why}: base backup`, relation)
    }
  }
}

async function backupOr(local: Local, why: string): Promise<Cure> {
  const obstacle = await local.noBackup()
  if (obstacle) throw new Refused(`${why}, and no base backup can be made: ${obstacle}`)
  return 'base backup'
}
