import { EtcdLeaseInvalidError } from 'etcd3'
import { Failed } from './errors.ts'
import type { Etcd } from './etcd.ts'
import { grant, keep, revoke } from './etcdlease.ts'
import { log } from './log.ts'
import { now, sleep } from './wait.ts'

/** Somebody else has the lock. */
export class LockHeld extends Failed {
  readonly holder: Record<string, unknown>

  constructor(holder: Record<string, unknown>) {
    const who = Object.entries(holder).map(([key, value]) => `${key} ${value}`)
    super(`another failover holds the lock: ${who.join(', ') || 'it does not say who'}`)
    this.holder = holder
  }
}

/** The lock counts as lost so long before etcd would give it to somebody else. */
export const MARGIN_MS = 3000

export interface Lock {
  /** Aborts as soon as the lock can no longer be relied on. */
  lost: AbortSignal
  /**
   * Asks etcd whether the lock is still ours; throws `Failed` if not. To be called right before each dangerous step. An answer that is
   * not older than `trustMs`, by the monotonic clock, will do: at most `MARGIN_MS`, for so long the lease goes on by itself.
   */
  check(trustMs?: number): Promise<void>
  /** Not being able to is no error: without us it ends with its lease. */
  release(): Promise<void>
}

export interface LockOptions {
  /** The lease; at least 15 s, since a stalled etcd leader may take some seconds to be replaced. */
  ttlMs: number
  waitMs: number
  signal?: AbortSignal | undefined
  /** Whether the holder that the lock names is dead for sure: then nobody waits for its lease to run out. */
  dead?(holder: string): boolean
}

function parse(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text)
  } catch {
    return { value: text }
  }
}

/** A lease that is renewed until its end. */
async function leaseFor(etcd: Etcd, ttlMs: number) {
  const lost = new AbortController()
  const end = new AbortController()
  const granted = now()
  const id = await grant(etcd, ttlMs)
  const lose = (reason: string) => {
    if (!end.signal.aborted) lost.abort(new Failed(`the failover lock is lost: ${reason}`))
  }
  keep(etcd, id, { granted, ttlMs, marginMs: MARGIN_MS, signal: end.signal }, lose).catch((error) =>
    lose(String(error)),
  )
  return { id, lost: lost.signal, lose, end }
}

/** Takes the lock at `key`, for `owner` (shown to those who find it taken). Throws `LockHeld` after `waitMs`. */
export async function lock(
  etcd: Etcd,
  key: string,
  owner: Record<string, unknown>,
  { ttlMs, waitMs, signal, dead }: LockOptions,
): Promise<Lock> {
  const start = now()
  let lease = await leaseFor(etcd, ttlMs)
  const full = etcd.full(key)
  const free = { key: full, target: 'Create' as const, result: 'Equal' as const, create_revision: 0 }
  const value = Buffer.from(JSON.stringify(owner))
  let created: string | undefined
  try {
    for (;;) {
      if (lease.lost.aborted) lease = await leaseFor(etcd, ttlMs)
      const look = { request_range: { key: full } }
      const put = { request_put: { key: full, value, lease: lease.id } }
      const asked = { compare: [free], success: [put, look], failure: [look] }
      const reply = await etcd.txn(asked).catch((error) => {
        if (!(error.cause instanceof EtcdLeaseInvalidError)) throw error
        lease.lose('etcd knows the lease no more') // whoever was suspended hears it here first
      })
      if (!reply) continue
      const holder = reply.responses.at(-1)?.response_range.kvs[0]
      // Where the answer to our own put got lost, the repetition finds the lock taken: by us.
      if (holder?.lease === lease.id && !lease.lost.aborted) {
        created = holder.create_revision
        break
      }
      if (holder && dead?.(holder.value.toString())) {
        log.warn('lock.orphan', parse(holder.value.toString()))
        const { create_revision } = holder
        const same = { key: full, target: 'Create' as const, result: 'Equal' as const, create_revision }
        await etcd.txn({ compare: [same], success: [{ request_delete_range: { key: full } }] })
        continue
      }
      if (now() - start > waitMs) throw new LockHeld(parse(holder?.value.toString() ?? '{}'))
      await sleep(200, signal)
      if (signal?.aborted) throw new Failed('stopped while waiting for the lock')
    }
  } catch (error) {
    lease.end.abort()
    await revoke(etcd, lease.id)
    throw error
  }

  const { id, lost, lose, end } = lease
  lost.addEventListener('abort', () => log.error('lock.lost', { error: lost.reason }))
  let confirmed = -Infinity
  const ours = { key: full, target: 'Create' as const, result: 'Equal' as const, create_revision: created }
  return {
    lost,

    async check(trustMs = 0) {
      const asked = now()
      if (!lost.aborted && asked - confirmed >= trustMs) {
        if (!(await etcd.txn({ compare: [ours] })).succeeded) lose('etcd says that it is not ours')
        confirmed = asked
      }
      if (lost.aborted) throw lost.reason
    },

    async release() {
      end.abort()
      const removal = { compare: [ours], success: [{ request_delete_range: { key: full } }] }
      await etcd
        .txn(removal)
        .catch((error) => log.warn('lock.release', { error, effect: 'it ends with its lease' }))
      await revoke(etcd, id)
    },
  }
}
