import * as grpc from '@grpc/grpc-js'
import { Fault, type Handler } from './apiserver.ts'
import { Expected } from './errors.ts'
import { metrics } from './metrics.ts'
import { now } from './wait.ts'

const codeOf = (error: unknown): grpc.status =>
  error instanceof Fault ? error.code : error instanceof Expected ? grpc.status.UNKNOWN : grpc.status.INTERNAL

/** The same handlers, with their calls, failures and durations counted. */
export function measured<Rpc extends string>(handlers: Record<Rpc, Handler>): Record<Rpc, Handler> {
  const wrap = ([rpc, handler]: [string, Handler]): [string, Handler] => {
    metrics.add('pgcm_api_calls_total', { rpc, code: 'OK' }, 0)
    return [
      rpc,
      async (request, signal) => {
        const start = now()
        let code = grpc.status.OK
        try {
          return await handler(request, signal)
        } catch (error) {
          code = codeOf(error)
          throw error
        } finally {
          metrics.add('pgcm_api_calls_total', { rpc, code: grpc.status[code] as string })
          metrics.observe('pgcm_api_call_duration_seconds', { rpc }, (now() - start) / 1000)
        }
      },
    ]
  }
  return Object.fromEntries(Object.entries<Handler>(handlers).map(wrap)) as Record<Rpc, Handler>
}
