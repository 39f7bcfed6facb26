import { networkInterfaces } from 'node:os'
import grpc from '@grpc/grpc-js'
import type { Blocker } from './api.ts'
import { Expected, messageOf, Refused } from './errors.ts'
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

export interface ApiOptions {
  /** `[host]:port`; port 0 takes a free one. */
  bind: string
  tls: Tls | null
  /** Names (CN) of the client certificates that may call. */
  allowed: string[]
  handlers: Partial<Record<Rpc, Handler>>
}

const loopback = /^(127\.|\[::1\]|localhost$)/

/** `:8080` -> `[::]:8080`, every address of the machine. */
function listenAddress(bind: string): { host: string; address: string } {
  const [, host = '', port] = bind.match(/^(.*):(\d+)$/) ?? []
  if (!port || Number(port) > 65535) throw new Refused(`bind-address: ${bind} is not [host]:port`)
  // Both families where the kernel has both.
  const any = networkInterfaces().lo?.some(({ family }) => family === 'IPv6') ? '[::]' : '0.0.0.0'
  return { host, address: `${host || any}:${port}` }
}

function nameOf(call: grpc.ServerUnaryCall<never, never>): string | undefined {
  const subject = call.getAuthContext()?.sslPeerCertificate?.subject as { CN?: string } | undefined
  return subject?.CN
}

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
  return { code, details: text.slice(0, 2000), metadata }
}

/** Every call goes through here: who may, what it cost, and an answer whatever happened. */
function handle(rpc: Rpc, handler: Handler, allowed: string[] | null): grpc.handleUnaryCall<never, never> {
  return (call, reply) => {
    const start = now()
    const caller = nameOf(call)
    const peer = call.getPeer()
    const gone = new AbortController()
    let replied = false
    call.on('cancelled', () => {
      if (!replied) gone.abort() // grpc-js says cancelled after every call
    })
    const finish = (error: unknown, response?: object) => {
      replied = true
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
    if (allowed && !(caller && allowed.includes(caller))) {
      return finish(new Fault(grpc.status.PERMISSION_DENIED, `${caller ?? 'nobody'} may not call this API`))
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
 * Throws `Refused` when the address cannot be had.
 */
export async function serve({ bind, tls, allowed, handlers }: ApiOptions) {
  const server = new grpc.Server({
    'grpc.max_receive_message_length': 64 * 1024,
    'grpc.max_concurrent_streams': 32,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 5_000,
    'grpc.max_connection_idle_ms': 300_000,
  })
  const entries = Object.entries(handlers) as [Rpc, Handler][]
  // What is missing answers UNIMPLEMENTED: that is grpc-js's own default for a handler that is not there.
  server.addService(
    definition.service,
    Object.fromEntries(entries.map(([rpc, handler]) => [rpc, handle(rpc, handler, tls && allowed)])) as never,
  )
  const credentials = tls
    ? grpc.ServerCredentials.createSsl(tls.ca, [{ cert_chain: tls.cert, private_key: tls.key }], true)
    : grpc.ServerCredentials.createInsecure()
  const { host, address } = listenAddress(bind)
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, credentials, (error, bound) => {
      if (error) reject(new Refused(`cannot listen on ${address}: ${messageOf(error)}`))
      else resolve(bound)
    })
  })
  if (!tls && !loopback.test(host)) {
    log.warn('api.insecure', {
      address,
      effect: 'whoever reaches it can pause the database and move the primary',
    })
  }
  return {
    port,
    /** Lets running calls end, for at most `graceMs`. */
    close(graceMs = 5_000): Promise<void> {
      return new Promise((resolve) => {
        const timer = setTimeout(() => server.forceShutdown(), graceMs)
        server.tryShutdown(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    },
  }
}
