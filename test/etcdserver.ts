import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'

const require = createRequire(import.meta.url)
const proto = join(dirname(require.resolve('etcd3/package.json')), 'proto/rpc.proto')
const loaded = loadSync(proto, { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true })
const { etcdserverpb } = grpc.loadPackageDefinition(loaded) as never as {
  etcdserverpb: Record<'KV' | 'Watch' | 'Lease', grpc.ServiceClientConstructor>
}

interface Kv {
  key: Buffer
  value: Buffer
  create_revision: number
  mod_revision: number
  lease: string
}
// biome-ignore lint/suspicious/noExplicitAny: etcd's messages, untyped
type Any = any

/** The keys of a cluster of fake members: transactions that compare revisions, watches, leases without time. */
export class Store {
  keys = new Map<string, Kv>()
  leases = new Set<string>()
  revision = 1
  /** Transactions whose conditions did not hold. */
  refused = 0
  watchers = new Set<{ key: string; tell: () => void }>()

  put(key: string, value: string, lease = '0'): void {
    const old = this.keys.get(key)
    this.revision += 1
    const kv = { key: Buffer.from(key), value: Buffer.from(value), lease, mod_revision: this.revision }
    this.keys.set(key, { ...kv, create_revision: old?.create_revision ?? this.revision })
    for (const watcher of this.watchers) if (watcher.key === key) watcher.tell()
  }

  delete(key: string): void {
    if (this.keys.delete(key)) this.revision += 1
    for (const watcher of this.watchers) if (watcher.key === key) watcher.tell()
  }

  revoke(id: string): void {
    this.leases.delete(id)
    for (const [key, kv] of this.keys) if (kv.lease === id) this.delete(key)
  }

  private get header() {
    return { revision: this.revision }
  }

  range({ key, range_end: end }: Any) {
    const from = key.toString()
    const kvs = [...this.keys.values()].filter((kv) =>
      end?.length
        ? kv.key >= key && Buffer.compare(kv.key, key) >= 0 && Buffer.compare(kv.key, end) < 0
        : kv.key.toString() === from,
    )
    return { header: this.header, kvs, count: kvs.length }
  }

  private op({ request_range: range, request_put: put, request_delete_range: gone }: Any) {
    if (range) return { response_range: this.range(range) }
    if (put) this.put(put.key.toString(), put.value.toString(), String(put.lease))
    if (gone) this.delete(gone.key.toString())
    return put
      ? { response_put: { header: this.header } }
      : { response_delete_range: { header: this.header } }
  }

  txn({ compare, success, failure }: Any) {
    const succeeded = (compare as Any[]).every((each) => {
      const kv = this.keys.get(each.key.toString())
      const field = each.target === 'Mod' ? 'mod_revision' : 'create_revision'
      return Number(each[field]) === (kv?.[field] ?? 0)
    })
    if (!succeeded) this.refused += 1
    const ops = (succeeded ? success : failure) as Any[]
    if (
      ops.some(
        (each) => Number(each.request_put?.lease ?? 0) && !this.leases.has(String(each.request_put.lease)),
      )
    ) {
      throw Object.assign(new Error('etcdserver: requested lease not found'), { code: grpc.status.NOT_FOUND })
    }
    return { header: this.header, succeeded, responses: ops.map((each) => this.op(each)) }
  }

  grant() {
    const ID = String(this.leases.size + 100)
    this.leases.add(ID)
    return { header: this.header, ID, TTL: 15 }
  }
}

/** One member. `mode` changes what it does with every request from now on: answer, hang, or say that it is not ready. */
export async function member(store: Store) {
  const state = {
    mode: 'answer' as 'answer' | 'hang' | 'refuse',
    silent: false,
    asked: 0,
    renewed: 0,
    grants: true,
  }
  const server = new grpc.Server()
  const unary =
    (answer: (request: Any) => unknown): grpc.handleUnaryCall<Any, Any> =>
    ({ request }, reply) => {
      state.asked += 1
      if (state.mode === 'hang') return
      if (state.mode === 'refuse')
        return reply({ code: grpc.status.UNAVAILABLE, details: 'etcdserver: leader changed' })
      try {
        reply(null, answer(request))
      } catch (error) {
        reply(error as grpc.ServiceError)
      }
    }
  const granted = unary(() => store.grant())
  const watch: grpc.handleBidiStreamingCall<Any, Any> = (stream) => {
    const mine = new Set<{ key: string; tell: () => void }>()
    stream.on('data', ({ create_request: create }) => {
      if (!create) return
      const tell = () => !state.silent && stream.write({ header: {}, watch_id: 1, events: [] })
      const watcher = { key: create.key.toString(), tell }
      mine.add(watcher)
      store.watchers.add(watcher)
      stream.write({ header: {}, watch_id: 1, created: true, events: [] })
    })
    const end = () => {
      for (const watcher of mine) store.watchers.delete(watcher)
      stream.end()
    }
    stream.on('end', end)
    stream.on('cancelled', end)
  }
  const keepAlive: grpc.handleBidiStreamingCall<Any, Any> = (stream) => {
    stream.on('data', ({ ID }) => {
      if (state.mode !== 'answer') return
      state.renewed += 1
      stream.write({ ID, TTL: store.leases.has(String(ID)) ? 15 : 0 })
    })
    stream.on('end', () => stream.end())
  }
  server.addService(etcdserverpb.KV.service, {
    Txn: unary((r) => store.txn(r)),
    Range: unary((r) => store.range(r)),
  })
  server.addService(etcdserverpb.Watch.service, { Watch: watch })
  server.addService(etcdserverpb.Lease.service, {
    LeaseGrant: ((call, reply) => state.grants && granted(call, reply)) as grpc.handleUnaryCall<Any, Any>,
    LeaseRevoke: unary(({ ID }) => {
      store.revoke(String(ID))
      return {}
    }),
    LeaseKeepAlive: keepAlive,
  })
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    )
  })
  return { state, url: `http://127.0.0.1:${port}`, close: () => server.forceShutdown() }
}
