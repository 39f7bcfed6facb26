import { setMaxListeners } from 'node:events'
import * as grpc from '@grpc/grpc-js'
import { Failed } from './errors.ts'
import type { NodeStatus } from './nodestatus.ts'
import { blockersKey, date, definition, type Rpc, type Timestamp } from './proto.ts'
import type { Tls } from './tls.ts'
import type { Outcome, Transaction } from './transactions.ts'

/** An open transaction (or session) that keeps a PgBouncer from pausing. */
export interface Blocker {
  database: string
  user: string
  client: string
  /** How long the transaction has been open, or null where nobody could say. */
  ageMs: number | null
  state: string
  /** The server connection it holds, `address:port` as PostgreSQL sees its client. */
  via?: string
}

export interface Component {
  name: string
  ok: boolean
  detail: string
}

export interface Health {
  healthy: boolean
  components: Component[]
}

export interface Call {
  deadlineMs: number
  signal?: AbortSignal | undefined
}

/** A call that failed. `code` is gRPC's; `reached` is false where the node itself gave no answer. */
export class ApiError extends Failed {
  readonly code: grpc.status
  readonly peer: string
  readonly blockers: Blocker[]
  readonly reached: boolean

  constructor(peer: string, rpc: Rpc, error: grpc.ServiceError, deadlineMs: number) {
    const blockers = error.metadata?.get(blockersKey)[0]
    const late = error.code === grpc.status.DEADLINE_EXCEEDED && !blockers
    const text = late ? `no answer within ${deadlineMs} ms` : error.details || error.message
    super(`${peer}: ${rpc}: ${text}`, undefined, { cause: error })
    this.code = error.code
    this.peer = peer
    this.blockers = blockers ? JSON.parse(blockers.toString()) : []
    this.reached = !late && error.code !== grpc.status.UNAVAILABLE && error.code !== grpc.status.CANCELLED
  }
}

/**
 * How long a connection on which an answer is due may be quiet before it is pinged, and how long the answer may
 * take.
 */
const KEEP_ALIVE = { timeMs: 10_000, timeoutMs: 5_000 }

const channelOptions: grpc.ChannelOptions = {
  'grpc.enable_retries': 0, // a repeated pause is not the same pause
  'grpc.max_receive_message_length': 4 * 2 ** 20,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  'grpc.use_local_subchannel_pool': 1,
}

/** The API of one node, `host:port`. Every call has a deadline; every failure is an `ApiError`. */
export function connect(address: string, tls: Tls | null, { timeMs, timeoutMs } = KEEP_ALIVE) {
  const credentials = tls
    ? grpc.credentials.createSsl(tls.ca, tls.key, tls.cert)
    : grpc.credentials.createInsecure()
  const client = new definition(address, credentials, {
    ...channelOptions,
    'grpc.keepalive_time_ms': timeMs,
    'grpc.keepalive_timeout_ms': timeoutMs,
  })
  const name = address.replace(/:\d+$/, '')

  function call<T>(rpc: Rpc, request: object, { deadlineMs, signal }: Call): Promise<T> {
    return new Promise((resolve, reject) => {
      const options = { deadline: Date.now() + deadlineMs }
      const running = client[rpc]?.(
        request,
        new grpc.Metadata(),
        options,
        (error: grpc.ServiceError | null, reply: T) => {
          signal?.removeEventListener('abort', abort)
          if (error) reject(new ApiError(name, rpc, error, deadlineMs))
          else resolve(reply)
        },
      )
      const abort = () => running.cancel()
      if (signal) setMaxListeners(0, signal) // one for each machine is no leak
      if (signal?.aborted) abort()
      else signal?.addEventListener('abort', abort, { once: true })
    })
  }
  const at = (stamp: Timestamp | null) => date(stamp) ?? new Date()

  return {
    name,
    address,

    async healthCheck(options: Call): Promise<Health> {
      const reply = await call<{ status: string; components: Component[] }>('health_check', {}, options)
      return { healthy: reply.status === 'HEALTHY', components: reply.components }
    },

    /** PAUSE on that host, which resumes by itself after `expiryMs`. On time-out the pause has been undone, and the error names the blockers. */
    async pause({
      timeoutMs,
      expiryMs,
      owner = '',
      ...options
    }: Call & { timeoutMs: number; expiryMs: number; owner?: string }) {
      const request = { timeout_ms: timeoutMs, expiry_ms: expiryMs, owner }
      const reply = await call<{ created_at: Timestamp; expires_at: Timestamp }>('pause', request, options)
      return { createdAt: at(reply.created_at), expiresAt: at(reply.expires_at) }
    },

    /**
     * Lets the clients go; where an address is given, once PgBouncer points there, which it has to within `timeoutMs`. `stallMs` is how
     * long its longest waiting client had waited.
     */
    async resume({
      owner = '',
      address: wanted = '',
      timeoutMs = 0,
      ...options
    }: Call & { owner?: string; address?: string | undefined; timeoutMs?: number }) {
      const request = { owner, address: wanted, timeout_ms: timeoutMs }
      const reply = await call<{ created_at: Timestamp; stall_ms: number }>('resume', request, options)
      return { createdAt: at(reply.created_at), stallMs: reply.stall_ms }
    },

    async unmigrate(options: Call) {
      return { createdAt: at((await call<{ created_at: Timestamp }>('unmigrate', {}, options)).created_at) }
    },

    /**
     * On the primary: asks Pacemaker to move the promoted role, and returns once the demotion is next. There it waits, for proceed() or
     * unmigrate(), or until the move is called off after `expiryMs`.
     */
    async prepare({
      target,
      lifetimeMs,
      expiryMs,
      ...options
    }: Call & { target: string; lifetimeMs: number; expiryMs: number }) {
      const request = { target, lifetime_ms: lifetimeMs, expiry_ms: expiryMs }
      return { elapsedMs: (await call<{ elapsed_ms: number }>('prepare', request, options)).elapsed_ms }
    },

    /** Lets the demotion go on; fails where none waits. */
    proceed: (options: Call): Promise<unknown> => call('proceed', {}, options),

    async checkpoint(options: Call) {
      return { elapsedMs: (await call<{ elapsed_ms: number }>('checkpoint', {}, options)).elapsed_ms }
    },

    /** That node's own view. */
    async status(options: Call): Promise<NodeStatus> {
      return JSON.parse((await call<{ json: string }>('status', {}, options)).json)
    },

    /** Waits until PostgreSQL of that node takes writes. */
    async writable({ timeoutMs, ...options }: Call & { timeoutMs: number }) {
      const request = { timeout_ms: timeoutMs }
      return { elapsedMs: (await call<{ elapsed_ms: number }>('writable', request, options)).elapsed_ms }
    },

    /** The transactions of clients, on the primary, that are older than this; the oldest first. */
    async transactions({ olderThanMs, ...options }: Call & { olderThanMs: number }): Promise<Transaction[]> {
      const request = { older_than_ms: olderThanMs }
      const reply = await call<{ transactions: Wired[] }>('transactions', request, options)
      return reply.transactions.map(({ age_ms: ageMs, ...rest }) => ({ ...rest, ageMs }))
    },

    /** Ends exactly these, on the primary: what is over already, or another transaction by now, is left alone. */
    async terminate({
      transactions,
      ...options
    }: Call & { transactions: Transaction[] }): Promise<Outcome[]> {
      const request = { transactions: transactions.map(({ pid, since }) => ({ pid, since })) }
      return (await call<{ outcomes: Outcome[] }>('terminate', request, options)).outcomes
    },

    /** Brings a stopped former primary back where its data is clean; gives the receipt of pgcm-rejoin there. */
    async rejoin({ timeoutMs, ...options }: Call & { timeoutMs: number }): Promise<Record<string, unknown>> {
      const { json } = await call<{ json: string }>('rejoin', { timeout_ms: timeoutMs }, options)
      return JSON.parse(json.trim().split('\n').at(-1) ?? '')
    },

    close: () => client.close(),
  }
}

type Wired = Omit<Transaction, 'ageMs'> & { age_ms: number }

export type Api = ReturnType<typeof connect>
