import { noop } from 'cockatiel'
import {
  Etcd3,
  type IDuplexStream,
  type IEvent,
  type IKeyValue,
  type IRequestOp,
  type ITxnRequest,
  type ITxnResponse,
  type IWatchRequest,
  type IWatchResponse,
} from 'etcd3'
import type { Config } from './config.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { log } from './log.ts'
import { etcdTls } from './tls.ts'
import { now, sleep } from './wait.ts'

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

const found = (kv: IKeyValue | undefined): Value | null =>
  kv ? { value: kv.value.toString(), revision: kv.mod_revision } : null

/** Keys as they were last seen, and of which revision of etcd that is, for each. */
export interface Known<K extends string> {
  values: Record<K, Value | null>
  at: Record<K, bigint>
}

/** What is known with the news of a watch. They may come late, or not in order: older ones than what is known are none. */
export function withNews<K extends string>(
  known: Known<K>,
  news: Pick<IEvent, 'type' | 'kv'>[],
  keyOf: (full: Buffer) => K | undefined,
): Known<K> {
  const next = { values: { ...known.values }, at: { ...known.at } }
  for (const { type, kv } of news) {
    const key = keyOf(kv.key)
    const revision = BigInt(kv.mod_revision)
    if (key === undefined || revision <= next.at[key]) continue
    next.values[key] = type === 'Delete' ? null : found(kv)
    next.at[key] = revision
  }
  return next
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
  async function ask<T>(request: (client: Etcd3) => Promise<T>): Promise<T> {
    // Two rounds: while a leader is elected every member says no at once.
    const order = [...members, ...members].map((_, i) => (preferred + i) % members.length)
    const errors: string[] = []
    return new Promise<T>((resolve, reject) => {
      let settled = false
      let next = 0
      let timer: NodeJS.Timeout | undefined
      const more = () => {
        clearTimeout(timer)
        const index = order[next++]
        const member = index === undefined ? undefined : members[index]
        if (settled || !member) return
        timer = setTimeout(more, HEDGE_MS)
        request(member.client).then(
          (value) => {
            if (settled) return
            settled = true
            clearTimeout(timer)
            preferred = index ?? 0
            resolve(value)
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

  /** The keys at one moment, linearizable. */
  async function look<K extends string>(keys: readonly K[]): Promise<Known<K>> {
    const success: IRequestOp[] = keys.map((key) => ({ request_range: { key: full(key) } }))
    const { responses, header } = await txn({ success })
    const values = keys.map((key, i) => [key, found(responses[i]?.response_range.kvs[0])])
    const at = keys.map((key) => [key, BigInt(header.revision)])
    return { values: Object.fromEntries(values), at: Object.fromEntries(at) }
  }

  /** Their values then; null for those that are not there. */
  const read = async <K extends string>(keys: readonly K[]): Promise<Record<K, Value | null>> =>
    (await look(keys)).values

  return {
    members,
    full,
    ask,
    txn,
    read,
    /** Of what is followed: when (of `now()`) it was last read, at first when this client was made; and whether a watch stands. */
    seen: seen as Readonly<typeof seen>,

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

    /**
     * Calls `change` with the keys as they are, at once and after every change, until `signal` aborts.
     * A watch brings the changes; a linearizable read, made every `pollMs` and whenever a watch begins, has the last word.
     * `change` is awaited; an error of it ends the following.
     */
    async follow<K extends string>(
      keys: readonly K[],
      { pollMs, retryMs, signal }: { pollMs: number; retryMs: number; signal: AbortSignal },
      change: (values: Record<K, Value | null>) => void | Promise<void>,
    ): Promise<void> {
      const keyOf = (bytes: Buffer) => keys.find((key) => full(key).equals(bytes))
      let hints = 0
      let hintsBefore = 0
      let news: IEvent[] = []
      let known: Known<K> | undefined
      let gap = false
      let wake = new AbortController()
      const hint = (events: IEvent[]) => {
        hints += 1
        news.push(...events)
        gap ||= events.length === 0 // what happened before this watch, nobody has told
        setImmediate(() => wake.abort()) // the keys of one transaction come one by one
      }
      const stop = () => wake.abort()
      signal.addEventListener('abort', stop)
      const watching = (stands: boolean) => {
        seen.watching = stands
      }
      const watch = watcher(members, keys.map(full), { hint, watching }, signal)
      let last: string | undefined
      try {
        while (!signal.aborted) {
          const hintsAtLast = hintsBefore
          hintsBefore = hints
          wake = new AbortController()
          let failed = false
          try {
            const told = news
            news = []
            const due = !known || gap || now() - seen.readAt >= pollMs
            gap = false
            const looked = known && !due ? withNews(known, told, keyOf) : await look(keys)
            known = looked
            if (due) {
              seen.readAt = now()
              log.cleared('etcd.read')
            }
            const text = JSON.stringify(looked.values)
            if (text !== last) {
              // A watch that let a change pass unsaid hangs, or its member is cut off: on to the next one.
              if (due && last !== undefined) setTimeout(() => hints === hintsAtLast && watch.rotate(), 250)
              await change(looked.values)
              last = text
            }
          } catch (error) {
            if (error instanceof EtcdDown) log.trouble('etcd.read', { error })
            else throw error
            gap = true
            failed = true
          }
          const pause = failed ? retryMs : Math.max(0, pollMs - (now() - seen.readAt))
          if (hints === hintsBefore) await sleep(pause, wake.signal)
        }
      } finally {
        signal.removeEventListener('abort', stop)
        watch.close()
      }
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

interface Heard {
  /** Called for whatever comes out of the stream: changes, or none when a watch begins. */
  hint: (events: IEvent[]) => void
  /** Called when a watch was accepted, and when it is over. */
  watching: (stands: boolean) => void
}

/** One watch stream on one member at a time. */
function watcher(members: Member[], keys: Buffer[], { hint, watching }: Heard, signal: AbortSignal) {
  let current: IDuplexStream<IWatchRequest, IWatchResponse> | undefined
  let index = 0
  let failures = 0

  function open(): void {
    const member = members[index % members.length]
    if (signal.aborted || !member) return
    const over = (error?: unknown) => {
      if (signal.aborted || gone) return
      gone = true
      watching(false)
      stream?.cancel()
      index += 1
      failures += 1
      log.debug('etcd.watch', { member: member.name, error })
      if (failures > members.length) log.trouble('etcd.watch', { member: member.name, error })
      sleep(Math.min(200 * failures, 2000), signal).then(open)
    }
    let gone = false
    let stream: typeof current
    member.streams.watchClient.watch().then((opened) => {
      stream = opened
      current = opened
      opened.on('data', (response) => {
        if (gone) return
        if (response.canceled) return over(new Error(`watch cancelled by ${member.name}`))
        failures = 0
        watching(true)
        log.cleared('etcd.watch')
        hint(response.events)
      })
      opened.on('error', over)
      opened.on('end', () => over(new Error('the stream ended')))
      for (const key of keys) opened.write({ create_request: { key } })
    }, over)
  }
  open()
  return {
    rotate: () => current?.cancel(),
    close: () => current?.cancel(),
  }
}
