import { fileURLToPath } from 'node:url'
import * as grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

grpc.setLogVerbosity(grpc.logVerbosity.NONE) // its own lines would stand between ours; errors reach us as errors

function packages<T>(file: string): T {
  const path = fileURLToPath(new URL(file, import.meta.url))
  const loaded = loadSync(path, { keepCase: true, longs: Number, enums: String, defaults: true })
  return grpc.loadPackageDefinition(loaded) as never
}

type Client = grpc.ServiceClientConstructor

/** The service of `failover.proto`; messages keep its field names, 64-bit numbers are JavaScript numbers. */
export const definition = packages<{ failover: { Failover: Client } }>('./failover.proto').failover.Failover

// protobufjs makes the code for a message when it meets the first one, also for one inside another: now, and not while clients
// are held. A message takes of this what it has.
const filled = {
  ...{ created_at: { seconds: 1 }, expires_at: { seconds: 1 } },
  ...{ components: [{}], transactions: [{}], outcomes: [{}] },
}
for (const { requestSerialize, requestDeserialize, responseSerialize, responseDeserialize } of Object.values(
  definition.service,
)) {
  requestDeserialize(requestSerialize(filled))
  responseDeserialize(responseSerialize(filled))
}

/** gRPC's own health service. */
export const healthDefinition = packages<{ grpc: { health: { v1: { Health: Client } } } }>('./health.proto')
  .grpc.health.v1.Health

export interface Timestamp {
  seconds: number
  nanos: number
}

export const timestamp = (at: Date): Timestamp => ({
  seconds: Math.floor(at.getTime() / 1000),
  nanos: (at.getTime() % 1000) * 1_000_000,
})

export const date = (stamp: Timestamp | null): Date | null =>
  stamp ? new Date(stamp.seconds * 1000 + Math.round(stamp.nanos / 1_000_000)) : null

/** Where the blockers of a pause travel beside the error message. */
export const blockersKey = 'pgcm-blockers-bin'

export type Rpc =
  | 'health_check'
  | 'pause'
  | 'resume'
  | 'migrate'
  | 'unmigrate'
  | 'prepare'
  | 'proceed'
  | 'checkpoint'
  | 'status'
  | 'writable'
  | 'transactions'
  | 'terminate'
  | 'rejoin'
