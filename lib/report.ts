// STOPGAP until api.ts, pacemaker.ts and etcd.ts are there: their types.
export interface NodeView { name: string; online: boolean; standby: boolean; maintenance: boolean; role: string; status: string | null; dataStatus: string | null; score: number | null; failed: boolean }
export interface Constraint { id: string; node: string | null; role: string | null; expires: Date | string | null; kind: 'cli' | 'ours' | 'other' }
export interface Failure { operation: string; node: string; reason: string; status: string; code: number; at: string }
export interface ClusterView { quorum: boolean; dc: string | null; version: string; maintenance: boolean; fencing: boolean; fenceDevices?: string[]; epoch: { called: number; promoted: number }; nodes: NodeView[]; constraints: Constraint[]; failures: Failure[] }
export interface OpenTransaction { database: string; user: string; client: string; ageMs: number; state: string }
export interface NodeStatus {
  name: string
  address?: string
  at?: string
  api: 'supervise' | 'proxy'
  version: string
  postgres: null | { role: 'primary' | 'standby'; timeline: number; lsn: string; replayLsn?: string | null; replayPaused?: boolean; replayLagBytes?: number | null; diskFree?: number
    replication: { name: string; state: string; syncState: string; lagBytes: number | null }[]
    prepared?: { gid: string; database: string; owner: string; ageMs: number }[]
    longest: OpenTransaction[] }
  pgbouncer: null | { version: string; paused: boolean; databases: { name: string; host: string; port: number; poolMode?: string }[]; clientsActive?: number; clientsWaiting?: number; maxWaitMs?: number; queryWaitTimeoutMs?: number; serverLoginRetryMs?: number }
  pause: { expiresAt: string } | null
  cluster: ClusterView | null
  errors: string[]
}
export interface Call { deadlineMs: number; signal?: AbortSignal }
export interface Api {
  name: string; address: string
  pause(o: Call & { timeoutMs: number; expiryMs: number; owner?: string }): Promise<unknown>
  resume(o: Call & { owner?: string }): Promise<unknown>
  migrate(o: Call & { target?: string; lifetimeMs?: number }): Promise<unknown>
  unmigrate(o: Call): Promise<unknown>
  checkpoint(o: Call): Promise<{ elapsedMs: number }>
  status(o: Call): Promise<NodeStatus>
  routed(o: Call & { address: string; timeoutMs: number }): Promise<{ elapsedMs: number }>
  close(): void
}
export interface Lock { lost: AbortSignal; check(): Promise<void>; release(): Promise<void> }
