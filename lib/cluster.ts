/** What a cluster is, and who is what in it. */

export interface Names {
  /** The primitive, `Postgresql`. */
  resource: string
  /** The promotable clone around it, `msPostgresql`. */
  clone: string
}

export interface NodeView {
  name: string
  id: string
  online: boolean
  standby: boolean
  maintenance: boolean
  pending: boolean
  /** Pacemaker does not know what runs there and wants it fenced. */
  unclean: boolean
  shutdown: boolean
  /** Role of the instance there, in today's words whatever the release says: Promoted, Unpromoted, Started or Stopped. */
  role: string
  /** What is being done to it, such as Promoting. */
  underway: string | null
  failed: boolean
  blocked: boolean
  managed: boolean
  status: string | null
  dataStatus: string | null
  /** Promotion score; 1000000 is INFINITY. */
  score: number | null
  baseline: string | null
  failCount: number
  attributes: Record<string, string>
}

export interface Constraint {
  id: string
  resource: string
  node: string | null
  score: string | null
  role: string | null
  expires: Date | null
  /** `cli`: left by crm_resource; `ours`: made by migrate; `other`: part of the set-up. */
  kind: 'cli' | 'ours' | 'other'
}

export interface Failure {
  resource: string
  operation: string
  node: string
  status: string
  reason: string
  code: number
  at: string
}

/** The cluster at one moment, as one node's Pacemaker has it. */
export interface ClusterView {
  quorum: boolean
  dc: string | null
  version: string
  maintenance: boolean
  fencing: boolean
  /** Fence devices that are started. */
  fenceDevices: string[]
  /** Fence devices that are not: what they are for cannot be fenced. */
  idleFenceDevices: string[]
  /** False where Pacemaker leaves the clone alone. */
  managed: boolean
  /** Version of the CIB, `admin.epoch.updates`. */
  cib: string
  /** The highest epoch in which anybody was promoted, and each node's own last one; 0 before the first. */
  epoch: { promoted: number; of: Record<string, number> }
  nodes: NodeView[]
  constraints: Constraint[]
  failures: Failure[]
}

/**
 * The primary: online, in a partition with quorum, holding the promoted instance, saying PRI and LATEST itself, and
 * promoted in the newest epoch. Null where there is none, or more than one claims it.
 */
export function primaryOf(cluster: ClusterView): NodeView | null {
  if (!cluster.quorum) return null
  const claims = cluster.nodes.filter(
    (node) =>
      node.online &&
      !node.unclean &&
      node.role === 'Promoted' &&
      node.status === 'PRI' &&
      node.dataStatus === 'LATEST' &&
      (cluster.epoch.of[node.name] ?? 0) === cluster.epoch.promoted,
  )
  return claims.length === 1 ? (claims[0] ?? null) : null
}

const rank = ['STREAMING|SYNC', 'STREAMING|POTENTIAL', 'STREAMING|ASYNC']

/** Standbys that stream, the synchronous one first. */
export function standbysOf(cluster: ClusterView): NodeView[] {
  return cluster.nodes
    .filter(
      (node) =>
        node.online && !node.unclean && node.role === 'Unpromoted' && rank.includes(node.dataStatus ?? ''),
    )
    .sort((a, b) => rank.indexOf(a.dataStatus ?? '') - rank.indexOf(b.dataStatus ?? ''))
}

/** The standby that planned failover takes when none is named. */
export function syncStandbyOf(cluster: ClusterView): NodeView | null {
  return standbysOf(cluster).find(({ dataStatus }) => dataStatus === 'STREAMING|SYNC') ?? null
}
