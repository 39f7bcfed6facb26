/**
 * Asks systemd of this machine for pgcm-rejoin. It has to be root and whoever serves the API must not be, so a socket
 * unit starts it: nothing can be said to it, and its output comes back on the same connection.
 */
import { createConnection } from 'node:net'
import * as grpc from '@grpc/grpc-js'
import { Fault } from './apiserver.ts'
import { messageOf } from './errors.ts'

const LOG = "journalctl -u 'pgcm-rejoin@*' there has the reason"

/**
 * Every line it printed, the last of them a receipt that says `ok`.
 * @throws Fault where there is no such unit, no receipt in time, or one that says no. Its process is not stopped then.
 */
export function askRejoin(
  path: string,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = createConnection(path)
    const end = (error?: Fault) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      socket.destroy()
      if (error) reject(error)
      else resolve(text)
    }
    const timer = setTimeout(
      () => end(new Fault(grpc.status.DEADLINE_EXCEEDED, `no receipt within ${timeoutMs} ms; ${LOG}`)),
      timeoutMs,
    )
    const onAbort = () => end(new Fault(grpc.status.CANCELLED, 'the caller has gone'))
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    socket.setEncoding('utf8')
    socket.on('data', (more) => {
      text += more
    })
    socket.on('error', (error: NodeJS.ErrnoException) =>
      end(
        new Fault(
          grpc.status.FAILED_PRECONDITION,
          ['ENOENT', 'ECONNREFUSED'].includes(error.code ?? '')
            ? `pgcm-rejoin.socket is not there: ${path}`
            : `${path}: ${messageOf(error)}`,
        ),
      ),
    )
    socket.on('end', () => end(complaint(text)))
  })
}

/** What its last line has against calling it done. */
function complaint(text: string): Fault | undefined {
  const last = text.trimEnd().split('\n').at(-1) ?? ''
  try {
    const { event, ok, error, hint } = JSON.parse(last)
    if (event === 'receipt' && ok === true) return undefined
    if (event === 'receipt')
      return new Fault(grpc.status.FAILED_PRECONDITION, [error, hint].filter(Boolean).join('. '))
  } catch {} // no receipt either
  const why =
    text === '' ? 'pgcm-rejoin said nothing: it runs there already, perhaps' : 'pgcm-rejoin gave no receipt'
  return new Fault(grpc.status.UNKNOWN, `${why}; ${LOG}`)
}
