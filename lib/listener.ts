/** The port of the API: who gets as far as a call. */
import { createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { AddressTaken, messageOf } from './errors.ts'
import { log } from './log.ts'
import type { Tls } from './tls.ts'

export interface ConnectionLimits {
  connections: number
  /** Connections without a call that was allowed; where there are more, the oldest makes way. */
  quiet: number
  quietMs: number
  handshakeMs: number
}
export const connectionLimits: ConnectionLimits = {
  connections: 256,
  quiet: 64,
  quietMs: 10_000,
  handshakeMs: 5_000,
}

export interface Listener {
  port: number
  /** The connection from `address:port` made a call that was allowed. */
  trust(peer: string): void
  close(): void
}

interface Quiet {
  socket: Socket
  /** Through the handshake. */
  accepted: boolean
  drop(why: string): void
}

const peerOf = (socket: Socket): string => `${socket.remoteAddress}:${socket.remotePort}`

/** Said once and then every five minutes: whoever reaches the port could fill the journal otherwise. */
const stranger = (peer: string, error: unknown) => log.disturbance('api.stranger', { peer, error })

/**
 * Listens, and gives each connection (after its handshake, with TLS) to `accept`. One from which no allowed call comes is cut off.
 * Throws `AddressTaken` when the address cannot be had.
 */
export async function listen(
  { host, port }: { host: string; port: number },
  tls: Tls | null,
  accept: (socket: Socket) => void,
  limits: ConnectionLimits = connectionLimits,
): Promise<Listener> {
  const quiet = new Map<string, Quiet>()

  function watch(socket: Socket): void {
    const peer = peerOf(socket)
    socket.on('error', () => {}) // TLS and HTTP/2 tell of it where it matters
    const drop = (why: string) => {
      if (!quiet.delete(peer)) return
      stranger(peer, why)
      socket.destroy()
    }
    const timer = setTimeout(() => drop(`no call within ${limits.quietMs} ms`), limits.quietMs)
    const entry = { socket, accepted: !tls, drop }
    quiet.set(peer, entry)
    socket.on('close', () => {
      clearTimeout(timer)
      const why = entry.accepted ? 'it went without a call' : 'it has no certificate of our CA, or gave up'
      if (quiet.delete(peer)) stranger(peer, why)
    })
    if (quiet.size > limits.quiet)
      [...quiet.values()][0]?.drop(`more than ${limits.quiet} connections say nothing`)
  }

  const server = tls
    ? createTlsServer({
        ...{ ca: tls.ca, cert: tls.cert, key: tls.key, requestCert: true, rejectUnauthorized: true },
        ALPNProtocols: ['h2'],
        handshakeTimeout: limits.handshakeMs,
      })
    : createServer()
  server.maxConnections = limits.connections
  server.on('connection', watch)
  server.on('drop', (data) => stranger(`${data?.remoteAddress}:${data?.remotePort}`, 'too many connections'))
  if (tls) {
    server.on('secureConnection', (socket: Socket) => {
      const entry = quiet.get(peerOf(socket))
      if (entry) entry.accepted = true
      accept(socket)
    })
    server.on('tlsClientError', (error: Error, socket: Socket) => {
      if (quiet.delete(peerOf(socket)))
        stranger(peerOf(socket), (error as { reason?: string }).reason ?? messageOf(error))
      socket.destroy()
    })
  } else server.on('connection', accept)

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new AddressTaken(`cannot listen on ${host}:${port}: ${messageOf(error)}`)),
    )
    server.listen({ host, port }, resolve)
  })
  server.on('error', (error) => log.disturbance('api.listen', { error })) // out of file descriptors, say
  return {
    port: (server.address() as { port: number }).port,
    trust: (peer) => void quiet.delete(peer),
    close() {
      server.close()
      const silent = [...quiet.values()]
      quiet.clear()
      for (const { socket } of silent) socket.destroy()
    },
  }
}
