/** The cluster as the commands reach it: etcd, and the API of every machine. */
import { readlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import { type Api, connect as connectApi } from './api.ts'
import type { Config } from './config.ts'
import { messageOf } from './errors.ts'
import { connect as connectEtcd } from './etcd.ts'
import { followKeys } from './etcdfollow.ts'
import { lock } from './etcdlock.ts'
import { keysOf, parseCluster } from './publish.ts'
import { LEASE_MS, type World } from './run.ts'
import type { Holder, Seen, Survey } from './survey.ts'
import { apiTls } from './tls.ts'
import { bootId, now } from './wait.ts'

export interface Surroundings extends World {
  /** Asks everybody at once. Whoever does not answer in time is part of the answer; only bad settings throw. */
  survey(): Promise<Survey>
  /** Keeps the record of a failover for pgcm-status --history, in the place of an earlier one of the same moment. */
  keep(record: { at: string; [field: string]: unknown }): Promise<void>
  history(): Promise<Record<string, unknown>[]>
  close(): void
}

const HISTORY = '/history/'
/** So many failovers are remembered. */
const KEPT = 100

export function connectWorld(config: Config): Surroundings {
  const tls = apiTls(config)
  const etcd = connectEtcd(config)
  const keys = keysOf(config)
  const apis = new Map<string, Api>()
  // Dialled once and kept: in the pause nobody waits for a handshake.
  const apiAt = (address: string): Api => {
    const api = apis.get(address) ?? connectApi(address, tls)
    apis.set(address, api)
    return api
  }

  async function ask(address: string, kind: Seen['kind']): Promise<Seen> {
    const api = apiAt(address)
    const began = Date.now()
    const start = now()
    try {
      const status = await api.status({ deadlineMs: config.healthCheckTimeout })
      const skewMs = status.at ? Date.parse(status.at) - (began + (now() - start) / 2) : undefined
      return { api, kind, status, ...(skewMs !== undefined && { skewMs: Math.round(skewMs) }) }
    } catch (error) {
      return { api, kind, error: messageOf(error).replace(`${api.name}: status: `, '') }
    }
  }

  async function inEtcd() {
    const values = await etcd.read([keys.primary, keys.cluster, keys.lock])
    const cluster = parseCluster(values[keys.cluster] ?? null)
    return {
      published: values[keys.primary]?.value ?? null,
      addresses: Object.fromEntries(
        (cluster?.nodes ?? []).flatMap(({ name, address }) => (address ? [[name, address]] : [])),
      ),
      lock: values[keys.lock] ? holderOf(values[keys.lock]?.value ?? '') : null,
      proxies: [...(await etcd.list(keys.proxies)).values()].map(({ value }) => addressIn(value)),
    }
  }

  return {
    async survey() {
      const nodes = Promise.all(config.failoverApiEndpoints.map((address) => ask(address, 'node')))
      let known: Awaited<ReturnType<typeof inEtcd>>
      try {
        known = await inEtcd()
      } catch (error) {
        return { seen: await nodes, published: null, addresses: {}, lock: null, etcdError: messageOf(error) }
      }
      const { proxies, ...rest } = known
      const apps = [...new Set(proxies)].filter((address) => !config.failoverApiEndpoints.includes(address))
      const seen = [...(await nodes), ...(await Promise.all(apps.map((address) => ask(address, 'app'))))]
      return { seen, ...rest }
    },

    lock: (command, waitMs, signal) => {
      const since = new Date().toISOString()
      const dead = (text: string) => holderOf(text).dead === true
      const owner = { host: hostname(), pid: process.pid, command, since, place: place() }
      return lock(etcd, keys.lock, owner, { ttlMs: LEASE_MS, waitMs, signal, dead })
    },

    watchPrimary(onChange, signal) {
      const settings = { pollMs: 500, retryMs: 200, signal }
      followKeys(etcd, [keys.cluster], settings, (values) => {
        const cluster = parseCluster(values[keys.cluster] ?? null)
        if (cluster) onChange(cluster)
      }).catch(() => {}) // only a shortcut: whoever waits has a deadline as well
    },

    async published() {
      const cluster = parseCluster(await etcd.get(keys.cluster))
      const address = cluster?.nodes.find(({ name }) => name === cluster.primary)?.address
      return cluster?.primary && address ? { epoch: cluster.epoch, primary: cluster.primary, address } : null
    },

    async keep(record) {
      const put = { key: etcd.full(HISTORY + record.at), value: Buffer.from(JSON.stringify(record)) }
      await etcd.txn({ success: [{ request_put: put }] })
      const old = [...(await etcd.list(HISTORY)).keys()].sort().slice(0, -KEPT)
      const gone = old.map((at) => ({ request_delete_range: { key: etcd.full(HISTORY + at) } }))
      if (gone.length > 0) await etcd.txn({ success: gone.slice(0, KEPT) })
    },

    async history() {
      const records = [...(await etcd.list(HISTORY))].sort(([a], [b]) => (a < b ? -1 : 1))
      return records.flatMap(([, { value }]) => {
        const record = recordIn(value)
        return record ? [record] : []
      })
    },

    close() {
      for (const api of apis.values()) api.close()
      etcd.close()
    },
  }
}

/** Where a pid means the same process: this boot, this pid namespace. */
const place = () => `${bootId()} ${readlinkSync('/proc/self/ns/pid')}`

/** By the system's word: that of another user may not be seen in /proc (hidepid), and is no less alive. */
export function hasEnded(pid: unknown): boolean {
  if (!Number.isSafeInteger(pid) || Number(pid) <= 0) return false
  try {
    process.kill(Number(pid), 0)
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

function holderOf(text: string): Holder {
  const unknown = { host: '?', pid: 0, command: text, since: '?' }
  try {
    const { place: where, ...holder } = JSON.parse(text)
    return {
      ...unknown,
      ...holder,
      ...(where === place() && hasEnded(holder.pid) && { dead: true }),
    }
  } catch {
    return unknown
  }
}

/** Undefined for what is no record: anybody who may write to etcd can put anything there. */
function recordIn(value: string): Record<string, unknown> | undefined {
  try {
    const record = JSON.parse(value)
    return typeof record?.at === 'string' ? record : undefined
  } catch {
    return undefined
  }
}

/** host:port, plain or in JSON. */
function addressIn(value: string): string {
  try {
    const { address } = JSON.parse(value)
    return typeof address === 'string' ? address : value
  } catch {
    return value
  }
}
