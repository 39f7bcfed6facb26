import { Failed, messageOf } from './errors.ts'
import type { Etcd } from './etcd.ts'
import { log } from './log.ts'
import { now, sleep, within } from './wait.ts'

const RENEWAL_MS = 1500

/** A lease of etcd; all keys written with it go when it ends. */
export async function grant(etcd: Etcd, ttlMs: number): Promise<string> {
  const { ID } = await etcd.ask((client) => client.leaseClient.leaseGrant({ TTL: Math.ceil(ttlMs / 1000) }))
  return ID
}

/** Ends a lease. Not being able to is no error: it ends by itself. */
export async function revoke(etcd: Etcd, id: string): Promise<void> {
  const ended = etcd.ask((client) => client.leaseClient.leaseRevoke({ ID: id }))
  await within(2000, 'revoking the lease', ended).catch((error) => log.debug('etcd.revoke', { error }))
}

/** False when etcd knows no such lease. A member that hangs does not cost it: the next one is asked long before this gives up. */
async function renew(etcd: Etcd, id: string): Promise<boolean> {
  const one = async (client: Etcd['members'][number]['client']): Promise<boolean> => {
    const stream = await client.leaseClient.leaseKeepAlive({ deadline: Date.now() + RENEWAL_MS })
    return new Promise((resolve, reject) => {
      stream.on('error', reject)
      stream.on('end', () => reject(new Failed('the stream ended')))
      stream.on('data', ({ TTL }) => {
        resolve(Number(TTL) > 0)
        stream.end() // a cancelled one is an error to etcd3, which would connect anew for the next
      })
      stream.write({ ID: id })
    })
  }
  try {
    return await within(RENEWAL_MS, 'the answer', etcd.ask(one))
  } catch (error) {
    throw new Failed(`the lease could not be renewed: ${messageOf(error)}`, undefined, { cause: error })
  }
}

interface Terms {
  /** Of the monotonic clock, from before it was granted. */
  granted: number
  ttlMs: number
  marginMs: number
  signal: AbortSignal
}

/**
 * Renews a lease until `signal` aborts or it is lost; then calls `lost` with the reason. It counts as lost `marginMs` before etcd
 * would let it go, by the monotonic clock from before the last renewal that was answered. `renewed` is done after each.
 */
export async function keep(
  etcd: Etcd,
  id: string,
  { granted, ttlMs, marginMs, signal }: Terms,
  lost: (reason: string) => void,
  renewed: () => Promise<unknown> = async () => {},
): Promise<void> {
  let last = granted
  while (!signal.aborted) {
    await sleep(ttlMs / 5, signal)
    if (signal.aborted) return
    const asked = now()
    try {
      if (!(await renew(etcd, id))) return lost('etcd knows the lease no more')
      last = asked
      await renewed()
    } catch (error) {
      log.debug('etcd.renew', { error })
      if (now() - last > ttlMs - marginMs - ttlMs / 5) return lost(messageOf(error))
    }
  }
}

/** Keeps `key` in etcd as long as this process lives (and `ttlMs` longer), until `signal` aborts; also where somebody deletes it. */
export async function register(
  etcd: Etcd,
  key: string,
  value: string,
  { ttlMs, retryMs, signal }: { ttlMs: number; retryMs: number; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    let lease: string | undefined
    try {
      const granted = now()
      lease = await grant(etcd, ttlMs)
      const put = { key: etcd.full(key), value: Buffer.from(value), lease }
      const success = [{ request_put: put }]
      await etcd.txn({ success })
      log.cleared('etcd.register')
      let renewals = 0
      const gone = { key: put.key, target: 'Create' as const, result: 'Equal' as const, create_revision: 0 }
      await keep(
        etcd,
        lease,
        { granted, ttlMs, marginMs: 0, signal },
        (error) => log.debug('etcd.register', { error }),
        async () => renewals++ % 5 === 4 && etcd.txn({ compare: [gone], success }), // as often as the lease lasts
      )
    } catch (error) {
      log.trouble('etcd.register', { key, error })
      await sleep(retryMs, signal)
    }
    if (lease && signal.aborted) await revoke(etcd, lease)
  }
}
