/** gRPC's standard health service on top of our own health check. */
import * as grpc from '@grpc/grpc-js'
import { log } from './log.ts'
import { definition, healthDefinition } from './proto.ts'
import { now, sleep } from './wait.ts'

type Status = 'SERVING' | 'NOT_SERVING' | 'SERVICE_UNKNOWN'
type Request = { service: string }
type Reply = { status: Status }

const WATCH_MS = 5_000
const MAX_WATCHES = 16
/** A probe that asks more often than this gets the answer of the last one. */
const FRESH_MS = 500

/** The names that can be asked for: the whole server, and our service. */
const SERVICES = ['', definition.service.pause?.path.split('/')[1]]

/** `healthy` asks; its failure means that we do not serve. `end` ends the open watches, so that the server can. */
export function healthService(healthy: () => Promise<boolean>, watchMs = WATCH_MS) {
  const watches = new Set<AbortController>()
  let ended = false
  let asked = -Infinity
  let answer: Promise<Status> = Promise.resolve('NOT_SERVING')

  /** One question for all who ask at the same time. */
  function status(): Promise<Status> {
    if (now() - asked < FRESH_MS) return answer
    asked = Infinity
    answer = healthy()
      .then(
        (well): Status => (well ? 'SERVING' : 'NOT_SERVING'),
        (error): Status => {
          log.debug('api.health', { error })
          return 'NOT_SERVING'
        },
      )
      .finally(() => {
        asked = now()
      })
    return answer
  }

  async function follow(stream: grpc.ServerWritableStream<Request, Reply>, end: AbortSignal): Promise<void> {
    let last: Status | undefined
    while (!end.aborted) {
      const found = SERVICES.includes(stream.request.service) ? await status() : 'SERVICE_UNKNOWN'
      if (found !== last && !end.aborted) stream.write({ status: found })
      last = found
      await sleep(watchMs, end)
    }
  }

  return {
    service: healthDefinition.service,
    implementation: {
      Check({ request }: grpc.ServerUnaryCall<Request, Reply>, reply: grpc.sendUnaryData<Reply>) {
        if (!SERVICES.includes(request.service))
          return reply({ code: grpc.status.NOT_FOUND, details: 'no such service' } as grpc.ServiceError)
        status().then((found) => reply(null, { status: found }))
      },
      Watch(stream: grpc.ServerWritableStream<Request, Reply>) {
        if (ended || watches.size >= MAX_WATCHES)
          return stream.emit('error', { code: grpc.status.RESOURCE_EXHAUSTED, details: 'too many watches' })
        const end = new AbortController()
        watches.add(end)
        stream.on('cancelled', () => end.abort())
        stream.on('error', () => end.abort())
        follow(stream, end.signal).finally(() => {
          watches.delete(end)
          stream.end()
        })
      },
    } as grpc.UntypedServiceImplementation,
    end() {
      ended = true
      for (const watch of watches) watch.abort()
    },
  }
}
