import type { ClusterView } from './cluster.ts'
import type { FailedFencing } from './fencing.ts'

export interface OpenTransaction {
  database: string
  user: string
  client: string
  ageMs: number
  state: string
}

export interface PostgresStatus {
  role: 'primary' | 'standby'
  timeline: number
  lsn: string
  replayLsn: string | null
  replayPaused: boolean
  /** Received but not yet replayed; null on a primary. */
  replayLagBytes: number | null
  /** Where a standby streams from. */
  upstream: string | null
  replication: {
    name: string
    state: string
    syncState: string
    lagBytes: number | null
    lagMs: number | null
  }[]
  prepared: { gid: string; database: string; owner: string; ageMs: number }[]
  /** The oldest open transactions. */
  longest: OpenTransaction[]
  version: string
  /** Bytes free where its data is. */
  diskFree?: number
}

export interface PgBouncerStatus {
  version: string
  paused: boolean
  databases: { name: string; host: string; port: number; poolMode: string }[]
  /** `user@database` of each pool by session, whatever the database says: a user may have a mode of its own. */
  sessionPools?: string[]
  clientsActive: number
  clientsWaiting: number
  maxWaitMs: number
  /** Server log-ins under way; a pause waits for their end. */
  logins?: number
  queryWaitTimeoutMs: number
  serverLoginRetryMs: number
}

/** What one machine says of itself through the API. */
export interface NodeStatus {
  name: string
  address?: string
  /** Its clock when it answered. */
  at: string
  api: 'supervise' | 'proxy'
  version: string
  postgres: PostgresStatus | null
  pgbouncer: PgBouncerStatus | null
  pause: { expiresAt: string; owner: string } | null
  cluster: ClusterView | null
  /** Absent where nobody knows. */
  failedFencings?: FailedFencing[]
  /** What could not be found out, and why. */
  errors: string[]
}
