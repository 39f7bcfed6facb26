import { hostname } from 'node:os'
import * as grpc from '@grpc/grpc-js'
import { addressOf } from './address.ts'
import type { Blocker } from './api.ts'
import { Fault, type Handler } from './apiserver.ts'
import { version } from './cli.ts'
import { type ClusterView, type Names, type NodeView, primaryOf, syncStandbyOf } from './cluster.ts'
import type { Config } from './config.ts'
import { type Demotion, LONGEST_MS } from './demotion.ts'
import { messageOf } from './errors.ts'
import type { Etcd } from './etcd.ts'
import { readFencing } from './fencing.ts'
import { log } from './log.ts'
import type { NodeStatus } from './nodestatus.ts'
import { OLDEST_MS } from './options.ts'
import { migrate, readCluster, unmigrate } from './pacemaker.ts'
import type { Keeper } from './pausekeeper.ts'
import * as pgbouncer from './pgbouncer.ts'
import { component, etcdComponent, health, milliseconds, poolerHandlers, poolerStatus } from './poolerapi.ts'
import * as postgres from './postgres.ts'
import { type Rpc, timestamp } from './proto.ts'
import { askRejoin } from './rejoinsocket.ts'
import * as transactions from './transactions.ts'
import { now, since } from './wait.ts'

/** The whole API, as a Postgres node serves it. `lastView` is what supervise saw last. */
export function nodeHandlers(
  config: Config,
  names: Names,
  console: pgbouncer.Console,
  etcd: Etcd,
  pauses: Keeper,
  demotion: Demotion,
  lastView: () => ClusterView | null,
  publishedEpoch: () => number,
) {
  const server = postgres.serverOf(config)
  const bounds = (signal: AbortSignal) => ({ timeoutMs: config.pacemakerGetTimeout, signal })

  /** The primary itself knows best what a transaction is doing. */
  async function explain(blockers: Blocker[]): Promise<Blocker[]> {
    const { role, longest } = await postgres.status(server).catch(() => ({ role: 'standby', longest: [] }))
    if (role !== 'primary') return blockers
    return blockers.map((blocker) => {
      const found = longest.find(({ client }) => client === blocker.via)
      return found ? { ...blocker, ageMs: found.ageMs, state: found.state } : blocker
    })
  }
  const pooler = poolerHandlers(console, pauses, config, explain)

  /** Makes the constraint, where the target can be promoted. */
  async function move(request: Record<string, unknown>, signal: AbortSignal): Promise<string> {
    const lifetimeMs = milliseconds(request, 'lifetime') || 60_000
    const wanted = String(request.target ?? '')
    const targetIn = (view: ClusterView) =>
      wanted ? view.nodes.find((node) => node.name === wanted) : syncStandbyOf(view)
    const runs = (node: NodeView | null | undefined) => node?.online && node.role === 'Unpromoted'
    const last = lastView()
    let target = last && targetIn(last)
    if (!runs(target)) {
      // Of a standby that came back a moment ago nobody has told us.
      const fresh = readCluster(names, bounds(signal))
      target = targetIn(last ? await fresh.catch(() => last) : await fresh)
    }
    if (!target) {
      throw new Fault(grpc.status.NOT_FOUND, wanted ? `no node ${wanted}` : 'there is no synchronous standby')
    }
    if (!runs(target)) {
      throw new Fault(
        grpc.status.FAILED_PRECONDITION,
        `${target.name} is no standby that runs: ${target.role}`,
      )
    }
    await migrate(names.clone, target.name, lifetimeMs, bounds(signal))
    return target.name
  }

  async function onPrimary(): Promise<void> {
    if (!(await postgres.isPrimary(server)))
      throw new Fault(grpc.status.FAILED_PRECONDITION, 'this node is not the primary')
  }

  const own: Record<Exclude<Rpc, 'pause' | 'resume'>, Handler> = {
    async health_check() {
      return health(
        await Promise.all([
          component('pgbouncer', async () => `${(await pgbouncer.showDatabases(console)).length} databases`),
          component('pacemaker', async () => {
            const view = await readCluster(names, { timeoutMs: config.pacemakerGetTimeout })
            if (!view.quorum) throw new Fault(grpc.status.UNAVAILABLE, 'no quorum')
            return `in quorum, epoch ${view.epoch.promoted}`
          }),
          component('postgresql', async () => {
            const primary = await postgres.isPrimary(server)
            const said = lastView() && primaryOf(lastView() as ClusterView)?.name === hostname()
            if (primary !== Boolean(said))
              throw new Fault(grpc.status.UNAVAILABLE, `primary: ${primary}, to Pacemaker: ${said}`)
            return primary ? 'primary' : 'standby'
          }),
          etcdComponent(etcd, config),
        ]),
      )
    },

    async migrate(request, signal) {
      const target = await move(request, signal)
      return { migrating_to: target, address: await addressOf(target), created_at: timestamp(new Date()) }
    },

    async unmigrate(_, signal) {
      const newest = () => Math.max(publishedEpoch(), lastView()?.epoch.promoted ?? 0)
      await demotion.inTurn(async () => {
        await unmigrate(names, { timeoutMs: 5000, signal }, newest)
        await demotion.letGo() // Pacemaker has no more use for it
      })
      return { created_at: timestamp(new Date()) }
    },

    async prepare(request, signal) {
      const start = now()
      const expiryMs = milliseconds(request, 'expiry')
      if (expiryMs === 0 || expiryMs > LONGEST_MS)
        throw new Fault(grpc.status.INVALID_ARGUMENT, `expiry is not within 1 and ${LONGEST_MS} ms`)
      await onPrimary()
      try {
        await demotion.inTurn(async () => {
          await demotion.hold(expiryMs)
          await move(request, signal)
        })
        await demotion.reached(signal)
      } catch (error) {
        await demotion.giveUp(messageOf(error))
        throw error
      }
      return { elapsed_ms: since(start) }
    },

    async proceed() {
      if (!demotion.proceed())
        throw new Fault(grpc.status.FAILED_PRECONDITION, 'no demotion waits here: the move was called off')
      return {}
    },

    async checkpoint() {
      await onPrimary()
      return { elapsed_ms: await postgres.checkpoint(server, 600_000) }
    },

    async status() {
      return { json: JSON.stringify(await nodeStatus(config, names, console, pauses)) }
    },

    async writable(request, signal) {
      const start = now()
      const timeoutMs = milliseconds(request, 'timeout')
      await postgres.takesWrites(server, { timeoutMs, signal }).catch((error) => {
        throw new Fault(grpc.status.DEADLINE_EXCEEDED, messageOf(error))
      })
      return { elapsed_ms: since(start) }
    },

    async transactions(request) {
      await onPrimary()
      const found = await transactions.olderThan(server, milliseconds(request, 'older_than', OLDEST_MS))
      return { transactions: found.map(({ ageMs, ...rest }) => ({ ...rest, age_ms: ageMs })) }
    },

    async terminate(request) {
      await onPrimary()
      const chosen = request.transactions as { pid: number; since: string }[]
      const outcomes = await transactions.terminate(server, chosen)
      log.warn('transactions.terminated', {
        asked: chosen.length,
        pids: outcomes.flatMap((o) => (o.ended ? o.pid : [])),
      })
      return { outcomes }
    },

    async rejoin(request, signal) {
      const timeoutMs = milliseconds(request, 'timeout') || 60_000
      return { json: await askRejoin(config.rejoinSocket, { timeoutMs, signal }) }
    },
  }
  return { ...pooler, ...own }
}

async function nodeStatus(
  config: Config,
  names: Names,
  console: pgbouncer.Console,
  pauses: Keeper,
): Promise<NodeStatus> {
  const errors: string[] = []
  const ask = <T>(question: Promise<T>): Promise<T | null> =>
    question.catch((error) => {
      errors.push(messageOf(error))
      return null
    })
  const pause = pauses.current()
  const [pooler, server, cluster, address, failedFencings] = await Promise.all([
    ask(poolerStatus(console, pause !== null)),
    ask(postgres.status(postgres.serverOf(config))),
    ask(readCluster(names, { timeoutMs: config.pacemakerGetTimeout })),
    ask(addressOf(hostname())),
    ask(readFencing(config.pacemakerGetTimeout)),
  ])
  return {
    name: hostname(),
    ...(address && { address }),
    at: new Date().toISOString(),
    api: 'supervise',
    version: version(),
    postgres: server,
    pgbouncer: pooler,
    pause: pause && { expiresAt: pause.expiresAt, owner: pause.owner },
    cluster,
    ...(failedFencings && { failedFencings }),
    errors,
  }
}
