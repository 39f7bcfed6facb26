import * as grpc from '@grpc/grpc-js'
import type { Blocker, Component } from './api.ts'
import { Fault, type Handler } from './apiserver.ts'
import { type Config, formatDuration } from './config.ts'
import { messageOf } from './errors.ts'
import type { Etcd } from './etcd.ts'
import type { PgBouncerStatus } from './nodestatus.ts'
import { LONGEST_CALL_MS, LONGEST_EXPIRY_MS } from './options.ts'
import type { Keeper } from './pausekeeper.ts'
import * as pgbouncer from './pgbouncer.ts'
import { timestamp } from './proto.ts'
import { keysOf } from './publish.ts'
import { within } from './wait.ts'

const invalid = (text: string) => new Fault(grpc.status.INVALID_ARGUMENT, text)

/** A duration out of the old field in seconds and ours in milliseconds. */
export function milliseconds(
  request: Record<string, unknown>,
  name: string,
  mostMs = LONGEST_CALL_MS,
): number {
  const ms = Number(request[`${name}_ms`]) || Number(request[name] ?? 0) * 1000
  if (!Number.isSafeInteger(ms) || ms < 0 || ms > mostMs)
    throw invalid(`${name} is not within 0 and ${formatDuration(mostMs)}`)
  return ms
}

/**
 * The PgBouncer half of the API, which every kind of node serves. `explain` may say more of those who block a pause than
 * PgBouncer knows.
 */
export function poolerHandlers(
  console: pgbouncer.Console,
  keeper: Keeper,
  {
    pgbouncerDatabases: databases,
    pgbouncerConfigFile: file,
  }: Pick<Config, 'pgbouncerDatabases' | 'pgbouncerConfigFile'>,
  explain: (blockers: Blocker[]) => Promise<Blocker[]> = async (blockers) => blockers,
): Record<'pause' | 'resume', Handler> {
  return {
    async pause(request, signal) {
      const timeoutMs = milliseconds(request, 'timeout')
      const expiryMs = milliseconds(request, 'expiry')
      if (timeoutMs === 0) throw invalid('timeout is 0: a pause needs time')
      if (expiryMs === 0) throw invalid('expiry is 0: every pause must end by itself')
      if (expiryMs > LONGEST_EXPIRY_MS)
        throw invalid(`expiry is above ${LONGEST_EXPIRY_MS / 1000} s: a daemon has to outlive its pause`)
      try {
        const pause = await keeper.pause({ timeoutMs, expiryMs, owner: String(request.owner ?? ''), signal })
        return {
          created_at: timestamp(new Date(pause.createdAt)),
          expires_at: timestamp(new Date(pause.expiresAt)),
        }
      } catch (error) {
        if (!(error instanceof pgbouncer.PauseBlocked)) throw error
        const blocked = new pgbouncer.PauseBlocked(error.timeoutMs, await explain(error.blockers))
        throw new Fault(grpc.status.DEADLINE_EXCEEDED, blocked.message, blocked.blockers)
      }
    },

    async resume(request, signal) {
      const address = String(request.address ?? '')
      if (address) {
        const timeoutMs = milliseconds(request, 'timeout')
        await pgbouncer.pointsAt(console, databases, address, { timeoutMs, signal, file }).catch((error) => {
          throw new Fault(grpc.status.DEADLINE_EXCEEDED, messageOf(error))
        })
      }
      const stallMs = await keeper.resume(String(request.owner ?? ''))
      return { created_at: timestamp(new Date()), stall_ms: stallMs }
    },
  }
}

/** PgBouncer's part of the node's status. */
export async function poolerStatus(console: pgbouncer.Console, paused: boolean): Promise<PgBouncerStatus> {
  const seen = await pgbouncer.overview(console)
  const sum = (pick: (pool: pgbouncer.Pool) => number) =>
    seen.pools.reduce((total, pool) => total + pick(pool), 0)
  const setting = (name: string) => Math.round(Number(seen.config.get(name) ?? 0) * 1000)
  return {
    version: seen.version,
    paused: paused || seen.paused,
    databases: seen.databases.map(({ name, host, port, poolMode }) => ({
      name,
      host: host ?? '',
      port,
      poolMode: poolMode ?? seen.config.get('pool_mode') ?? '',
    })),
    sessionPools: seen.pools.flatMap(({ user, database, mode }) =>
      mode === 'session' ? [`${user}@${database}`] : [],
    ),
    clientsActive: sum((pool) => pool.clientsActive),
    clientsWaiting: sum((pool) => pool.clientsWaiting),
    maxWaitMs: Math.max(0, ...seen.pools.map((pool) => pool.maxWaitMs)),
    logins: sum((pool) => pool.serversLogin),
    queryWaitTimeoutMs: setting('query_wait_timeout'),
    serverLoginRetryMs: setting('server_login_retry'),
  }
}

/** A part of the health, from a question that may fail; the answer is its detail. */
export async function component(name: string, question: () => Promise<string>): Promise<Component> {
  try {
    return { name, ok: true, detail: await question() }
  } catch (error) {
    return { name, ok: false, detail: messageOf(error) }
  }
}

/** Whether a majority of etcd answers: a linearizable read, within the time of one attempt. */
export const etcdComponent = (
  etcd: Pick<Etcd, 'get'>,
  config: Pick<Config, 'etcdTimeout' | 'etcdPostgresMasterKey'>,
): Promise<Component> =>
  component('etcd', async () => {
    const read = etcd.get(keysOf(config).primary)
    return `the primary is ${(await within(config.etcdTimeout, 'etcd', read))?.value ?? 'not published'}`
  })

/** The reply to a health check: healthy when every part is. */
export const health = (components: Component[]) => ({
  status: components.every(({ ok }) => ok) ? 'HEALTHY' : 'UNHEALTHY',
  components,
})
