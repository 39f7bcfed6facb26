import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

grpc.setLogVerbosity(grpc.logVerbosity.NONE) // its own lines would stand between ours; errors reach us as errors

/** The service of `failover.proto`; messages keep its field names, 64-bit numbers are JavaScript numbers. */
export const definition = (() => {
  const file = fileURLToPath(new URL('./failover.proto', import.meta.url))
  const loaded = loadSync(file, { keepCase: true, longs: Number, enums: String, defaults: true })
  const { failover } = grpc.loadPackageDefinition(loaded) as never as {
    failover: { Failover: grpc.ServiceClientConstructor }
  }
  return failover.Failover
})()

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
  | 'checkpoint'
  | 'status'
  | 'routed'
  | 'transactions'
  | 'terminate'
  | 'rejoin'
