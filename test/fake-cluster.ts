/** A cluster made of objects: three nodes and an app node, a Pacemaker that moves the primary, an etcd with a lock. */

import type { Api } from '../lib/api.ts'
import type { ClusterView } from '../lib/cluster.ts'
import { Failed } from '../lib/errors.ts'
import type { NodeStatus } from '../lib/nodestatus.ts'
import type { Survey } from '../lib/survey.ts'
import type { Transaction } from '../lib/transactions.ts'
import { sleep } from '../lib/wait.ts'
import type { Surroundings } from '../lib/world.ts'

const STANDARD = { pg01: '10.0.0.11', pg02: '10.0.0.12', pg03: '10.0.0.13', app01: '10.0.0.21' }

/** Called before every call of the world; may throw, wait, or abort the run. */
export type Meddle = (call: string, index: number, signal?: AbortSignal) => unknown

/** `machines`: name to address, three nodes and then the app node. */
export function fakeCluster(meddle: Meddle = () => {}, machines: Record<string, string> = STANDARD) {
  const [first = '', second = '', third = '', app = ''] = Object.keys(machines)
  const NODES = [first, second, third]
  const ADDRESS = machines
  const nameAt = (address: string | null) => NODES.find((name) => ADDRESS[name] === address)
  const state = {
    primary: first as string | null,
    epoch: 9,
    published: ADDRESS[first] as string | null,
    constraint: null as string | null,
    demotionWaits: false,
    locked: false,
    /** Aborts when etcd lets the lock go. */
    lost: new AbortController(),
    paused: new Map<string, string>(),
    pointsAt: new Map(Object.keys(machines).map((name) => [name, ADDRESS[first] as string])),
    /** Open on the primary. */
    open: [] as Transaction[],
    /** Demoted, and not rejoined. */
    stopped: new Set<string>(),
    rejoins: true as boolean | string,
    calls: [] as string[],
    /** Resumed although it did not point at a primary that takes writes. */
    letGoWrongly: [] as string[],
    /** Who Pacemaker really makes primary; `null`: whoever the constraint names. */
    chooses: null as string | null,
    moveMs: 20,
  }
  const call = async (name: string, signal?: AbortSignal) => {
    state.calls.push(name)
    await meddle(name, state.calls.length - 1, signal)
  }

  let changed = () => {}

  const move = async () => {
    const target = state.chooses ?? state.constraint
    if (!target) return
    if (state.primary && state.primary !== target) state.stopped.add(state.primary)
    state.primary = null
    await sleep(state.moveMs)
    state.primary = target
    state.epoch += 1
    await sleep(2)
    state.published = ADDRESS[target] as string
    const address = state.published
    for (const [at, name] of [...state.pointsAt.keys()].entries())
      setTimeout(() => state.pointsAt.set(name, address), at * 3)
    changed()
  }

  /** Only what the commands use. */
  const api = (name: string) =>
    ({
      name,
      address: `${name}:8080`,
      async status() {
        await call(`${name} status`)
        return statusOf(name)
      },
      async checkpoint({ signal }: Parameters<Api['checkpoint']>[0]) {
        await call(`${name} checkpoint`, signal)
        return { elapsedMs: 1 }
      },
      async pause({ owner, signal }: Parameters<Api['pause']>[0]) {
        await call(`${name} pause`, signal)
        state.paused.set(name, owner ?? '')
      },
      async resume({ owner, address, timeoutMs = 0, signal }: Parameters<Api['resume']>[0]) {
        await call(`${name} resume`, signal)
        const end = Date.now() + timeoutMs
        while (address && state.pointsAt.get(name) !== address) {
          if (signal?.aborted || Date.now() > end) throw new Failed(`${name}: resume: not in time`)
          await sleep(2, signal)
        }
        if (owner && state.paused.has(name) && state.paused.get(name) !== owner) return { stallMs: 0 }
        if (!state.primary || state.pointsAt.get(name) !== ADDRESS[state.primary])
          state.letGoWrongly.push(name)
        state.paused.delete(name)
        return { stallMs: name === app ? 31 : 12 }
      },
      async prepare({ target, signal }: Parameters<Api['prepare']>[0]) {
        await call(`${name} prepare`, signal)
        state.constraint = target
        state.demotionWaits = true
        return { elapsedMs: 1 }
      },
      async proceed({ signal }: Parameters<Api['proceed']>[0]) {
        await call(`${name} proceed`, signal)
        if (!state.demotionWaits) throw new Failed('no demotion waits here')
        state.demotionWaits = false
        setTimeout(move, 5)
      },
      async unmigrate({ signal }: Parameters<Api['unmigrate']>[0]) {
        await call(`${name} unmigrate`, signal)
        state.constraint = null
        state.demotionWaits = false
      },
      async writable({ timeoutMs, signal }: Parameters<Api['writable']>[0]) {
        await call(`${name} writable`, signal)
        const end = Date.now() + timeoutMs
        while (state.primary !== name) {
          if (signal?.aborted || Date.now() > end) throw new Failed(`${name}: writable: not in time`)
          await sleep(2, signal)
        }
        return { elapsedMs: 1 }
      },
      async transactions({ olderThanMs, signal }: Parameters<Api['transactions']>[0]) {
        await call(`${name} transactions`, signal)
        return state.open.filter(({ ageMs }) => ageMs > olderThanMs)
      },
      async terminate({ transactions, signal }: Parameters<Api['terminate']>[0]) {
        await call(`${name} terminate ${transactions.map(({ pid }) => pid)}`, signal)
        return transactions.map(({ pid, since }) => {
          const found = state.open.findIndex((each) => each.pid === pid && each.since === since)
          if (found >= 0) state.open.splice(found, 1)
          return { pid, ended: found >= 0, error: '' }
        })
      },
      async rejoin({ signal }: Parameters<Api['rejoin']>[0]) {
        await call(`${name} rejoin`, signal)
        if (state.rejoins !== true) throw new Failed(`${name}: rejoin: ${state.rejoins}`)
        state.stopped.delete(name)
        return { event: 'receipt', ok: true }
      },
      close() {},
    }) as unknown as Api
  const apis = new Map(Object.keys(machines).map((name) => [name, api(name)]))

  const view = () =>
    ({
      quorum: true,
      dc: first,
      version: '3.0.0',
      maintenance: false,
      fencing: true,
      fenceDevices: ['fence-pg01'],
      epoch: { promoted: state.epoch, of: state.primary ? { [state.primary]: state.epoch } : {} },
      cib: '0.1.1',
      managed: true,
      nodes: NODES.map((name) => ({
        name,
        online: true,
        standby: false,
        maintenance: false,
        failed: false,
        role: name === state.primary ? 'Promoted' : state.stopped.has(name) ? 'Stopped' : 'Unpromoted',
        status: name === state.primary ? 'PRI' : name === third ? 'HS:potential' : 'HS:sync',
        unclean: false,
        dataStatus: name === state.primary ? 'LATEST' : 'STREAMING|SYNC',
        score: name === state.primary ? 1000 : 100,
      })),
      constraints: state.constraint
        ? [{ id: 'pgcm-move-msPostgresql', node: null, role: 'Promoted', expires: null, kind: 'ours' }]
        : [],
      failures: [],
    }) as unknown as ClusterView

  function statusOf(name: string): NodeStatus {
    const node = NODES.includes(name)
    const primary = name === state.primary
    return {
      name,
      address: ADDRESS[name] as string,
      at: new Date().toISOString(),
      api: node ? 'supervise' : 'proxy',
      version: '0.1.0',
      errors: [],
      pause: state.paused.has(name)
        ? { owner: state.paused.get(name) ?? '', expiresAt: '2026-01-01T00:00:10Z' }
        : null,
      cluster: node ? view() : null,
      postgres:
        node && !state.stopped.has(name)
          ? {
              role: primary ? 'primary' : 'standby',
              timeline: state.epoch,
              lsn: '0/5000148',
              replayLsn: '0/5000148',
              upstream: null,
              version: '17.6',
              replayPaused: false,
              replayLagBytes: 0,
              diskFree: 2 ** 34,
              prepared: [],
              longest: [],
              replication: primary
                ? NODES.filter((other) => other !== name && !state.stopped.has(other)).map((other) => ({
                    name: other,
                    state: 'streaming',
                    syncState: other === third ? 'potential' : 'sync',
                    lagBytes: 0,
                    lagMs: 0,
                  }))
                : [],
            }
          : null,
      pgbouncer: {
        version: '1.24.1',
        clientsActive: 1,
        clientsWaiting: 0,
        maxWaitMs: 0,
        paused: state.paused.has(name),
        databases: [
          { name: 'app', host: state.pointsAt.get(name) ?? '', port: 5432, poolMode: 'transaction' },
        ],
        queryWaitTimeoutMs: 120_000,
        serverLoginRetryMs: 100,
      },
    }
  }

  const kept: Record<string, unknown>[] = []
  const world: Surroundings = {
    async survey(): Promise<Survey> {
      const seen = await Promise.all(
        [...apis].map(async ([name, each]) => {
          const kind = NODES.includes(name) ? ('node' as const) : ('app' as const)
          try {
            return { api: each, kind, status: await each.status({ deadlineMs: 100 }), skewMs: 0 }
          } catch (error) {
            return { api: each, kind, error: (error as Error).message }
          }
        }),
      )
      const holder = { host: 'here', pid: 1, command: 'other', since: '2026-01-01T00:00:00Z' }
      return { seen, published: state.published, addresses: ADDRESS, lock: state.locked ? holder : null }
    },
    async lock(_owner, _timeoutMs, signal) {
      await call('lock', signal)
      if (state.locked) throw new Failed('another failover holds the lock')
      state.locked = true
      return {
        lost: state.lost.signal,
        check: () => call('lock check'),
        release: async () => {
          await call('unlock')
          state.locked = false
        },
      }
    },
    watchPrimary(onChange, signal) {
      const tick = () => {
        if (signal.aborted) return
        onChange({ epoch: state.epoch, primary: state.primary })
        setTimeout(tick, 2)
      }
      tick()
    },
    async published() {
      await call('published')
      const primary = nameAt(state.published)
      return primary && state.published ? { epoch: state.epoch, primary, address: state.published } : null
    },
    keep: async (record) => {
      const same = kept.findIndex(({ at }) => at === record.at)
      kept.splice(same < 0 ? kept.length : same, 1, record)
    },
    history: async () => kept,
    close() {},
  }
  /** Calls back whenever somebody is published as primary. */
  const onChange = (callback: () => void) => {
    changed = callback
  }
  return { state, world, kept, statusOf, view, apis, onChange }
}
