import { noop } from 'cockatiel'
import { Etcd3, type IKeyValue, type IRequestOp, type ITxnRequest, type ITxnResponse } from 'etcd3'
import type { Config } from './config.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { etcdTls } from './tls.ts'
import { now } from './wait.ts'

/** No member gave an answer. */
export class EtcdDown extends Failed {}

/** What a key holds, and the revision at which it was last written (etcd's mod_revision). */
export interface Value {
  value: string
  revision: string
}

interface Member {
  name: string
  /** For requests, and for streams: a failed request closes the channels of its client. */
  client: Etcd3
  streams: Etcd3
}

/** A slow member gets company after this long; the first answer counts. */
const HEDGE_MS = 300

type Settings = Pick<
  Config,
  | 'etcdEndpoints'
  | 'etcdNamespace'
  | 'etcdTimeout'
  | 'etcdKeepAliveTime'
  | 'etcdKeepAliveTimeout'
  | 'etcdCaFile'
  | 'etcdCertFile'
  | 'etcdKeyFile'
  | 'tlsCaFile'
  | 'tlsCertFile'
  | 'tlsKeyFile'
  | 'insecure'
>

function membersOf(config: Settings): Member[] {
  if (config.etcdEndpoints.length === 0) throw new Refused('etcd-endpoints names no member')
  for (const url of config.etcdEndpoints) {
    if (!/^https?:\/\/[^/\s]+:\d+$/.test(url))
      throw new Refused(`etcd-endpoints: ${url} is not http(s)://host:port`)
  }
  const secure = config.etcdEndpoints.some((url) => url.startsWith('https:'))
  const tls = secure ? etcdTls(config) : null
  const policy = noop as never
  const client = (url: string) =>
    new Etcd3({
      hosts: [url],
      ...(tls &&
        url.startsWith('https:') && {
          credentials: { rootCertificate: tls.ca, privateKey: tls.key, certChain: tls.cert },
        }),
      // Retries and the choice of a member are ours (`ask`): etcd3 picks at random, and again the one that hangs.
      faultHandling: { host: () => policy, global: policy },
      grpcOptions: {
        'grpc.keepalive_time_ms': config.etcdKeepAliveTime,
        'grpc.keepalive_timeout_ms': config.etcdKeepAliveTimeout,
        'grpc.keepalive_permit_without_calls': 1,
        'grpc.initial_reconnect_backoff_ms': 100,
        'grpc.max_reconnect_backoff_ms': 1000,
      },
      defaultCallOptions: ({ isStream }) => (isStream ? {} : { deadline: Date.now() + config.etcdTimeout }),
    })
  return config.etcdEndpoints.map((url) => ({
    name: url.replace(/^https?:\/\//, ''),
    client: client(url),
    streams: client(url),
  }))
}

export const found = (kv: IKeyValue | undefined): Value | null =>
  kv ? { value: kv.value.toString(), revision: kv.mod_revision } : null

/** Keys as they were last seen, and of which revision of etcd that is, for each. */
export interface Known<K extends string> {
  values: Record<K, Value | null>
  at: Record<K, bigint>
}

/** A client of every member. Nothing is connected before the first request. */
export function connect(config: Settings) {
  const members = membersOf(config)
  const full = (key: string) => Buffer.from(config.etcdNamespace + key)
  let preferred = 0
  const seen = { readAt: now(), watching: false }

  /**
   * Runs a request on one member, and on the next ones when it fails or is slow. So a request may be carried out
   * twice: only what is guarded by a comparison may be written through this.
   */
  const ask = async <T>(request: (client: Etcd3) => Promise<T>): Promise<T> =>
    (await askFrom(preferred, request)).answer

  /** The same, beginning with a certain member; `by` is the one that gave the answer. Both are places in `members`. */
  async function askFrom<T>(first: number, request: (client: Etcd3) => Promise<T>) {
    // Two rounds: while a leader is elected every member says no at once.
    const order = [...members, ...members].map((_, i) => (first + i) % members.length)
    const errors: string[] = []
    return new Promise<{ answer: T; by: number }>((resolve, reject) => {
      let settled = false
      let next = 0
      let timer: NodeJS.Timeout | undefined
      const more = () => {
        clearTimeout(timer)
        const index = order[next++]
        const member = index === undefined ? undefined : members[index]
        if (settled || index === undefined || !member) return
        timer = setTimeout(more, HEDGE_MS)
        request(member.client).then(
          (answer) => {
            if (settled) return
            settled = true
            clearTimeout(timer)
            preferred = index
            resolve({ answer, by: index })
          },
          (error) => {
            errors.push(`${member.name}: ${messageOf(error)}`)
            if (next === members.length) return void setTimeout(more, HEDGE_MS)
            if (errors.length < order.length) return more()
            settled = true
            clearTimeout(timer)
            const last = errors.slice(-members.length)
            reject(new EtcdDown(`etcd does not answer: ${last.join('; ')}`, undefined, { cause: error }))
          },
        )
      }
      more()
    })
  }

  const txn = (request: ITxnRequest): Promise<ITxnResponse> => ask((client) => client.kv.txn(request))

  /** The keys at one moment, linearizable; by the member `first`, if it answers in time. */
  async function look<K extends string>(
    keys: readonly K[],
    first = preferred,
  ): Promise<Known<K> & { by: number }> {
    const success: IRequestOp[] = keys.map((key) => ({ request_range: { key: full(key) } }))
    const { answer, by } = await askFrom(first, (client) => client.kv.txn({ success }))
    const { responses, header } = answer
    const values = keys.map((key, i) => [key, found(responses[i]?.response_range.kvs[0])])
    const at = keys.map((key) => [key, BigInt(header.revision)])
    return { values: Object.fromEntries(values), at: Object.fromEntries(at), by }
  }

  /** Their values then; null for those that are not there. */
  const read = async <K extends string>(keys: readonly K[]): Promise<Record<K, Value | null>> =>
    (await look(keys)).values

  return {
    members,
    full,
    ask,
    txn,
    look,
    read,
    /** Of what is followed: when (of `now()`) it was last read, at first when this client was made; and whether a watch stands. */
    seen,

    async get(key: string): Promise<Value | null> {
      return (await read([key]))[key] ?? null
    },

    /** Every key that begins with `prefix`, without namespace and prefix. */
    async list(prefix: string): Promise<Map<string, Value>> {
      const key = full(prefix)
      const range_end = Buffer.from(key)
      range_end[range_end.length - 1] = (range_end.at(-1) ?? 0) + 1
      const { kvs } = await ask((client) => client.kv.range({ key, range_end }))
      return new Map(kvs.map((kv) => [kv.key.toString().slice(key.length), found(kv) as Value]))
    },

    /** Writes `puts` if each of `keys` is still as `seen`. False: somebody was faster, or our own answer got lost. */
    async replace(seen: Record<string, Value | null>, puts: Record<string, string>): Promise<boolean> {
      const compare = Object.entries(seen).map(([key, value]) => ({
        key: full(key),
        target: 'Mod' as const,
        result: 'Equal' as const,
        mod_revision: value?.revision ?? 0,
      }))
      const success = Object.entries(puts).map(([key, value]) => ({
        request_put: { key: full(key), value: Buffer.from(value) },
      }))
      return (await txn({ compare, success })).succeeded
    },

    close(): void {
      for (const { client, streams } of members) {
        client.close()
        streams.close()
      }
    },
  }
}

export type Etcd = ReturnType<typeof connect>
