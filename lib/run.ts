/** One planned failover: what it is to do, and what it has done so far. */
import type { Api } from './api.ts'
import type { Lock } from './etcdlock.ts'
import type { Member } from './survey.ts'

/** Of the lock. etcd may take some seconds to replace a leader that hangs. */
export const LEASE_MS = 15_000

/** Milliseconds. */
export interface Times {
  lockTimeout: number
  pauseTimeout: number
  pauseExpiry: number
  resumeTimeout: number
  pacemakerTimeout: number
  maxPause: number
}

/** What a failover needs of the world besides the machines' APIs. */
export interface World {
  lock(owner: string, timeoutMs: number, signal: AbortSignal): Promise<Lock>
  /** Calls back with who is published as primary, now and whenever it changes, until the signal. */
  watchPrimary(onChange: (view: { epoch: number; primary: string | null }) => void, signal: AbortSignal): void
  /** Who is published as primary. */
  published(): Promise<{ epoch: number; primary: string; address: string } | null>
}

/** One failover: what it is to do, and what it has done so far. */
export interface Run {
  world: World
  times: Times
  /** Names this run to the lock and to the PgBouncers. */
  owner: string
  from: Member
  target: Member
  /** The target's address. */
  address: string
  epoch: number
  /** Every machine with a PgBouncer. */
  poolers: Api[]
  /** Postgres nodes, the target first: any of them can ask Pacemaker, and that one will be there to the end. */
  nodes: Api[]
  /** A constraint of a killed run is there. */
  leftover: boolean
  /** The lock is that of a killed run. */
  orphan: boolean
  abort(reason: Error): void
  /** Throws where the world is not as it was when the operator was asked. */
  lookAgain(): Promise<void>

  held?: Lock
  pausedAt?: number
  resumedAt?: number
  moving?: boolean
  /** Each PgBouncer's way to the new primary. */
  routes?: { of: Map<Api, Promise<unknown>>; stop(): void }
  arrived?: boolean
}
