/**
 * What a machine says of itself: the JSON of the API's `status` rpc. The daemons fill it, the commands read it.
 * A part that could not be asked is `{error}`; an app node has the PgBouncer part only. Sizes are bytes, times
 * milliseconds, instants ISO 8601.
 */
export interface Report {
  node: string
  address: string
  /** This machine's clock when it answered. */
  at: string
  version: string
  pacemaker?: PacemakerReport | Unanswered
  postgres?: PostgresReport | Unanswered
  pgbouncer?: PgbouncerReport | Unanswered
}

export interface Unanswered {
  error: string
}

export interface PacemakerReport {
  quorum: boolean
  /** stonith-enabled */
  fencing: boolean
  /** Fence devices that are started somewhere. */
  fenceDevices: string[]
  /** maintenance-mode of the whole cluster, or of our resource */
  maintenance: boolean
  /** Location constraints that somebody left behind: ids beginning with cli- or pgcm-move-. */
  constraints: string[]
  failed: { node: string; resource: string; operation: string; reason: string }[]
  nodes: PacemakerNode[]
  epoch: { called: number; promoted: number }
  /** The node whose promoted instance is the primary, as the daemon judges it. */
  primary: string | null
}

export interface PacemakerNode {
  name: string
  address: string
  online: boolean
  standby: boolean
  maintenance: boolean
  role: string
  status: string
  dataStatus: string
  score: string
}

export interface PostgresReport {
  role: 'primary' | 'standby'
  version: string
  timeline: number
  /** The primary's write position, or what a standby has received. */
  lsn: string
  replayLsn?: string
  /** Received but not yet replayed. */
  replayLagBytes?: number
  replayPaused?: boolean
  diskFree?: number
  /** Primary only, from here on. */
  replication?: { name: string; state: string; syncState: string; lagBytes: number | null }[]
  prepared?: { gid: string; database: string; owner: string; ageMs: number }[]
  /** Transactions that have been open for a second or more. */
  transactions?: OpenTransaction[]
}

export interface OpenTransaction {
  database: string
  user: string
  client: string
  ageMs: number
  state: string
}

export interface PgbouncerReport {
  version: string
  paused: boolean
  /** When the pause ends by itself. */
  pausedUntil?: string | null
  databases: { name: string; host: string; port: number; poolMode: string }[]
  clientsActive: number
  clientsWaiting: number
  /** How long the client that waits longest has waited. */
  maxWaitMs: number
  /** Server logins in flight. */
  logins: number
  /** SHOW CONFIG, milliseconds. */
  queryWaitTimeoutMs: number
  serverLoginRetryMs: number
}

export const answered = <T extends object>(part: T | Unanswered | undefined): part is T =>
  part !== undefined && !('error' in part)
