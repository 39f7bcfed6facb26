/** One planned failover: what it is to do, and what it has done so far. */
import type { Api } from './api.ts'
import type { Lock } from './etcdlock.ts'
import type { Member } from './survey.ts'
import type { Transaction } from './transactions.ts'

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
  drainTimeout: number
  rejoinTimeout: number
}

/** What a failover needs of the world besides the machines' APIs. */
export interface World {
  lock(owner: string, timeoutMs: number, signal: AbortSignal): Promise<Lock>
  /** Calls back with who is published as primary, now and whenever it changes, until the signal. */
  watchPrimary(onChange: (view: { epoch: number; primary: string | null }) => void, signal: AbortSignal): void
  /** Who is published as primary. */
  published(): Promise<{ epoch: number; primary: string; address: string } | null>
}

/** What the undoing of a run needs, and so every run: the next one may have to do it. */
export interface Base {
  world: World
  times: Times
  /** Names this run to the lock and to the PgBouncers. */
  owner: string
  /** Where the primary shall be. */
  address: string
  /** The one that was promoted before. */
  epoch: number
  /** Postgres nodes, the target first: any of them can ask Pacemaker, and that one will be there to the end. */
  nodes: Member[]
  /** A constraint of a killed run is there. */
  leftover: boolean
  abort(reason: Error): void

  held?: Lock
  pausedAt?: number
  /** Whether the target takes writes yet. */
  writable?: { answer: Promise<unknown>; stop(): void }
}

/** One failover: what it is to do, and what it has done so far. */
export interface Run extends Base {
  from: Member
  target: Member
  /** Every machine with a PgBouncer. */
  poolers: Api[]
  /** Transactions that the operator wants ended first. */
  doomed: Transaction[]
  /** Throws where the world is not as it was when the operator was asked. */
  lookAgain(): Promise<void>

  resumedAt?: number
  /** Fails once somebody else than the target is primary. */
  elsewhere?: { seen: Promise<never>; stop(): void }
  /** The demotion was let go on. */
  moving?: boolean
  arrived?: boolean
  /** How long the client that waited longest had waited when its PgBouncer resumed, in ms. */
  stallMs?: number
  /** The old primary streams from the new one. */
  rejoined?: boolean
}
