import type { Config } from './config.ts'
import { Failed } from './errors.ts'
import type { Etcd, Value } from './etcd.ts'

/** One node as the readers of etcd see it. */
export interface PublishedNode {
  name: string
  address: string | null
  online: boolean
  role: string
  status: string | null
  dataStatus: string | null
  score: number | null
}

/** What stands at `<namespace>/cluster`. */
export interface Cluster {
  epoch: number
  /** The primary, or null while there is none. */
  primary: string | null
  /** The last primary of this epoch; an epoch never has two. */
  last: string | null
  nodes: PublishedNode[]
  updatedAt: string
}

/** The keys below the namespace. */
export const keysOf = (config: Pick<Config, 'etcdPostgresMasterKey'>) => ({
  primary: config.etcdPostgresMasterKey,
  cluster: '/cluster',
  /** Names of standbys that are too far behind to read from. */
  laggards: '/laggards',
  lock: '/lock',
  proxies: '/proxies/',
})

export type Decision =
  | { write: { cluster: string | null; primary: string | null } }
  | { keep: true }
  | { refuse: string }

const text = (value: unknown): string | null => (typeof value === 'string' ? value : null)

function nodeOf(raw: Record<string, unknown> | null): PublishedNode[] {
  const name = text(raw?.name)
  if (!raw || !name) return []
  return [
    {
      name,
      address: text(raw.address),
      online: raw.online === true,
      role: text(raw.role) ?? '',
      status: text(raw.status),
      dataStatus: text(raw.dataStatus),
      score: typeof raw.score === 'number' ? raw.score : null,
    },
  ]
}

function json(value: Value | null) {
  try {
    return JSON.parse(value?.value ?? '')
  } catch {
    return null
  }
}

/**
 * The cluster as etcd has it; null for what is not there or has no epoch and nodes. Anybody who may write to etcd can put
 * anything there, so everything else in it that is not what it should be counts as missing.
 */
export function parseCluster(value: Value | null): Cluster | null {
  const raw = json(value)
  // An epoch is a timeline of PostgreSQL's, 32 bits; a greater one would be obeyed for ever.
  if (!Number.isInteger(raw?.epoch) || raw.epoch < 0 || raw.epoch >= 2 ** 32) return null
  if (!Array.isArray(raw.nodes)) return null
  return {
    epoch: raw.epoch,
    primary: text(raw.primary),
    last: text(raw.last),
    nodes: raw.nodes.flatMap(nodeOf),
    updatedAt: text(raw.updatedAt) ?? '',
  }
}

/** Whether exactly that stands there already, but for the time. */
const stands = (value: Value | null, wanted: Cluster) =>
  JSON.stringify({ ...json(value), updatedAt: '' }) === JSON.stringify({ ...wanted, updatedAt: '' })

/**
 * What to write so that etcd says `seen`. It never goes back: not to an older epoch, and within one epoch not to
 * another primary. Without a primary the old address stays where it is.
 */
export function decide(current: { cluster: Value | null; primary: Value | null }, seen: Cluster): Decision {
  const published = parseCluster(current.cluster)
  if (published && seen.epoch < published.epoch) {
    return { refuse: `etcd has epoch ${published.epoch}, this node sees ${seen.epoch}` }
  }
  const last = published && published.epoch === seen.epoch ? published.last : null
  // Epoch 0 is that of a cluster that has not promoted anyone yet under this agent: nothing to compare.
  if (seen.epoch > 0 && seen.primary && last && last !== seen.primary) {
    return {
      refuse: `epoch ${seen.epoch} is ${last}'s in etcd, this node sees ${seen.primary} as its primary`,
    }
  }
  const wanted = { ...seen, last: seen.primary ?? last }
  const address = seen.nodes.find((node) => node.name === seen.primary)?.address ?? null
  const cluster = published && stands(current.cluster, wanted) ? null : JSON.stringify(wanted)
  const primary = address && address !== current.primary?.value ? address : null
  return cluster || primary ? { write: { cluster, primary } } : { keep: true }
}

/**
 * Says of each view in turn whether a follower may go along: not back to an older epoch than it has followed, as a
 * restored etcd or a stale writer would have it. A view that is missing, once there was one, is older.
 */
export function ratchet(): (cluster: Cluster | null) => { follow: boolean; followed: number; found: number } {
  let followed = 0
  return (cluster) => {
    const found = cluster?.epoch ?? 0
    const follow = found >= followed
    if (follow) followed = found
    return { follow, followed, found }
  }
}

/** Etcd is ahead of what this node sees: of an epoch it has not heard of yet, or of one it will never see. */
export class Behind extends Failed {}

/** Etcd was ahead a moment ago, and has lost what it had: another node knows better what to put there. */
export class Doubtful extends Behind {}

/**
 * Makes etcd say `seen`. Gives what was written, or null where nothing had to be; throws `Behind` where it must not be.
 * `known`, if it is still right, saves a question. With `doubted` nothing is written: `Doubtful` says that it would have been.
 */
export async function publish(
  etcd: Etcd,
  keys: { primary: string; cluster: string },
  seen: Cluster,
  known: Record<string, Value | null> | null = null,
  doubted = false,
): Promise<{ cluster: string | null; primary: string | null } | null> {
  for (let attempt = 0; attempt < 5; attempt++) {
    const values = (attempt === 0 && known) || (await etcd.read([keys.cluster, keys.primary]))
    const cluster = values[keys.cluster] ?? null
    const primary = values[keys.primary] ?? null
    const decision = decide({ cluster, primary }, seen)
    if ('keep' in decision) return null
    if ('refuse' in decision) {
      const hint = 'If this cluster was made anew, delete its keys in etcd.'
      throw new Behind(`not published: ${decision.refuse}`, hint)
    }
    if (doubted) throw new Doubtful('not published: etcd refused this view a moment ago, and has lost why')
    const { write } = decision
    const puts = {
      ...(write.cluster && { [keys.cluster]: write.cluster }),
      ...(write.primary && { [keys.primary]: write.primary }),
    }
    if (await etcd.replace({ [keys.cluster]: cluster, [keys.primary]: primary }, puts)) return write
  }
  throw new Failed('not published: others write the same keys all the time')
}
