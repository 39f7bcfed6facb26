/** What every call has to pass before its handler hears of it: who may, how many at once, how slowly. */
import * as grpc from '@grpc/grpc-js'
import { log } from './log.ts'

export interface CallLimits {
  /** Calls at once, of all connections together. */
  calls: number
  /** How long a request may take to arrive. */
  requestMs: number
}
export const callLimits: CallLimits = { calls: 64, requestMs: 5_000 }

/** The name in the certificate of whoever calls. */
export function callerOf(
  call: Pick<grpc.ServerInterceptingCallInterface, 'getAuthContext'>,
): string | undefined {
  const subject = call.getAuthContext()?.sslPeerCertificate?.subject as { CN?: unknown } | undefined
  // Two CNs come as a list, which is on no list of ours.
  return typeof subject?.CN === 'string' ? subject.CN : undefined
}

/**
 * Refuses callers whose name is not in `allowed` (null: everybody may), too many calls at once, and requests that do
 * not arrive. `trust` hears of each connection that may call. What an attacker can cause is logged at a bounded rate.
 */
export function gate(
  allowed: string[] | null,
  trust: (peer: string) => void,
  limits: CallLimits = callLimits,
): grpc.ServerInterceptor {
  let running = 0
  return (method, call) => {
    const peer = call.getPeer()
    const caller = callerOf(call)
    const fields = { rpc: method.path, peer, caller }
    let counted = false
    let complete = false
    let refused = false
    let timer: NodeJS.Timeout | undefined

    const refuse = (event: string, code: grpc.status, details: string) => {
      refused = true
      log.disturbance(event, { ...fields, error: details })
      call.sendStatus({ code, details })
    }
    const listener: grpc.ServerListener = {
      onReceiveMetadata(metadata, next) {
        if (allowed && !(caller && allowed.includes(caller)))
          return refuse(
            'api.denied',
            grpc.status.PERMISSION_DENIED,
            `${caller ?? 'nobody'} may not call this API`,
          )
        trust(peer)
        if (running >= limits.calls)
          return refuse('api.busy', grpc.status.RESOURCE_EXHAUSTED, `more than ${limits.calls} calls at once`)
        running += 1
        counted = true
        const late = `the request did not arrive within ${limits.requestMs} ms`
        timer = setTimeout(() => refuse('api.slow', grpc.status.DEADLINE_EXCEEDED, late), limits.requestMs)
        next(metadata)
      },
      onReceiveHalfClose(next) {
        complete = true
        clearTimeout(timer)
        next()
      },
      // grpc-js calls it at the end of every call, however it ended.
      onCancel() {
        clearTimeout(timer)
        if (!counted) return
        running -= 1
        if (!complete && !refused)
          log.disturbance('api.garbled', {
            ...fields,
            error: 'the request was too long, no message of ours, or broken off',
          })
      },
    }
    return new grpc.ServerInterceptingCall(call, { start: (next) => next(listener) })
  }
}
