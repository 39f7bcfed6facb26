import { networkInterfaces } from 'node:os'
import * as grpc from '@grpc/grpc-js'
import type { Blocker } from './api.ts'
import { type CallLimits, callerOf, callLimits, gate } from './calllimits.ts'
import { Expected, messageOf, Refused } from './errors.ts'
import { healthService } from './healthservice.ts'
import { type ConnectionLimits, connectionLimits, listen } from './listener.ts'
import { log } from './log.ts'
import { blockersKey, definition, type Rpc } from './proto.ts'
import type { Tls } from './tls.ts'
import { now, since } from './wait.ts'

/** An error that the caller is told with a gRPC code of its own. */
export class Fault extends Expected {
  readonly exitCode = 1
  readonly code: grpc.status
  readonly blockers: Blocker[]

  constructor(code: grpc.status, message: string, blockers: Blocker[] = []) {
    super(message)
    this.code = code
    this.blockers = blockers
  }
}

/** Answers one request. The signal aborts when the caller has given up before the answer; what was begun must be undone then. */
export type Handler = (request: Record<string, unknown>, signal: AbortSignal) => Promise<object>

/** How long a connection may be quiet before it is pinged, and how long the answer may take. */
const KEEP_ALIVE = { timeMs: 30_000, timeoutMs: 5_000 }

export interface ApiOptions {
  /** `[host]:port`; port 0 takes a free one. */
  bind: string
  tls: Tls | null
  /** Names (CN) of the client certificates that may call. */
  allowed: string[]
  handlers: Partial<Record<Rpc, Handler>>
  /** For tests. */
  limits?: Partial<CallLimits & ConnectionLimits>
  /** For tests. */
  keepAlive?: typeof KEEP_ALIVE
}

const loopback = /^(127\.|::1$|localhost$)/

/** `:8080` -> `::` and 8080, every address of the machine. */
function listenAddress(bind: string): { host: string; port: number } {
  const [, host = '', port] = bind.match(/^(.*):(\d+)$/) ?? []
  if (!port || Number(port) > 65535) throw new Refused(`bind-address: ${bind} is not [host]:port`)
  // Both families where the kernel has both.
  const any = networkInterfaces().lo?.some(({ family }) => family === 'IPv6') ? '::' : '0.0.0.0'
  return { host: host.replace(/^\[(.*)\]$/, '$1') || any, port: Number(port) }
}

/** No call takes longer, whatever its caller's deadline. */
const LONGEST_MS = 3_660_000

function answer(error: unknown): Partial<grpc.ServiceError> {
  const metadata = new grpc.Metadata()
  if (error instanceof Fault && error.blockers.length > 0) {
    metadata.set(blockersKey, Buffer.from(JSON.stringify(error.blockers.slice(0, 20))))
  }
  const code =
    error instanceof Fault
      ? error.code
      : error instanceof Expected
        ? grpc.status.UNKNOWN
        : grpc.status.INTERNAL
  // A bug is told to the log, not to the network.
  const text = error instanceof Expected ? messageOf(error) : 'internal error; the log of this node has it'
  // Half a surrogate pair, left by the cut, would throw in grpc-js where nobody catches it.
  const details = Buffer.from(text.slice(0, 2000)).toString()
  return { code, details, metadata }
}

/** Every call of ours goes through here: what it cost, and one answer whatever happened. */
function handle(rpc: Rpc, handler: Handler): grpc.handleUnaryCall<never, never> {
  return (call, reply) => {
    const start = now()
    const caller = callerOf(call)
    const peer = call.getPeer()
    const gone = new AbortController()
    let replied = false
    call.on('cancelled', () => {
      if (!replied) gone.abort() // grpc-js says cancelled after every call
    })
    const tooLong = setTimeout(() => {
      gone.abort()
      finish(new Fault(grpc.status.DEADLINE_EXCEEDED, 'it took too long'))
    }, LONGEST_MS).unref()
    const finish = (error: unknown, response?: object) => {
      if (replied) return
      replied = true
      clearTimeout(tooLong)
      const fields = { rpc, peer, caller, elapsed: since(start) }
      if (error) {
        const { code, details, metadata } = answer(error)
        if (error instanceof Expected) log.warn('api.refused', { ...fields, code, error: details })
        else
          log.error('api.bug', {
            ...fields,
            code,
            stack: error instanceof Error ? error.stack : String(error),
          })
        reply({ code, details, metadata } as grpc.ServiceError)
      } else {
        log[rpc === 'health_check' || rpc === 'status' ? 'debug' : 'info']('api.call', fields)
        reply(null, response as never)
      }
    }
    Promise.resolve()
      .then(() => handler(call.request as Record<string, unknown>, gone.signal))
      .then(
        (response) => finish(null, response),
        (error) => finish(error ?? new Error('rejected with nothing')),
      )
  }
}

/**
 * Serves the API. Without TLS it refuses to start; pass `tls: null` only where the operator said so.
 * Throws `Refused` when the address is none, `AddressTaken` when it cannot be had.
 */
export async function serve({ bind, tls, allowed, handlers, limits, keepAlive = KEEP_ALIVE }: ApiOptions) {
  let trust: (peer: string) => void = () => {}
  const server = new grpc.Server({
    'grpc.max_receive_message_length': 64 * 1024,
    'grpc.max_concurrent_streams': 32,
    'grpc.keepalive_time_ms': keepAlive.timeMs,
    'grpc.keepalive_timeout_ms': keepAlive.timeoutMs,
    'grpc.max_connection_idle_ms': 300_000,
    'grpc-node.max_session_memory': 4, // MB
    interceptors: [gate(tls && allowed, (peer) => trust(peer), { ...callLimits, ...limits })],
  })
  const entries = Object.entries(handlers) as [Rpc, Handler][]
  // What is missing answers UNIMPLEMENTED: that is grpc-js's own default for a handler that is not there.
  server.addService(
    definition.service,
    Object.fromEntries(entries.map(([rpc, handler]) => [rpc, handle(rpc, handler)])) as never,
  )
  const healthy = async () => {
    const reply = await handlers.health_check?.({}, new AbortController().signal)
    return (reply as { status?: string } | undefined)?.status === 'HEALTHY'
  }
  const health = healthService(healthy)
  server.addService(health.service, health.implementation)
  // The connections are ours, with or without TLS, so that bad ones are told from good ones; grpc-js gets them open.
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  const address = listenAddress(bind)
  const listener = await listen(address, tls, (socket) => injector.injectConnection(socket), {
    ...connectionLimits,
    ...limits,
  }).catch((error) => {
    server.forceShutdown() // or grpc-js keeps it in its registry for ever
    throw error
  })
  trust = listener.trust
  if (!tls && !loopback.test(address.host)) {
    log.warn('api.insecure', {
      address: bind,
      effect: 'whoever reaches it can pause the database and move the primary',
    })
  }
  return {
    port: listener.port,
    /** Lets running calls end, for at most `graceMs`. */
    close(graceMs = 5_000): Promise<void> {
      listener.close()
      health.end()
      return new Promise((resolve) => {
        const timer = setTimeout(() => {
          server.forceShutdown()
          resolve() // no callback may come any more, of a connection that was just closing
        }, graceMs)
        server.tryShutdown(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    },
  }
}
