import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { Failed } from './errors.ts'

/** Milliseconds on the monotonic clock, which no step of the wall clock moves. */
export const now = (): number => performance.now()

/** Names this boot of the machine: monotonic clocks, pids and what was not yet on the disk mean nothing in another. */
export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()

/** Whole milliseconds since `start` (from `now()`). */
export const since = (start: number): number => Math.round(now() - start)

/** Resolves after `ms`, or at once (without an error) when `signal` aborts. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve()
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal?.addEventListener('abort', done, { once: true })
  })
}

/** `promise`, or a `Failed` saying that `what` took longer than `ms`. The work behind the promise is not stopped. */
export function within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Failed(`${what} took longer than ${ms} ms`)), ms)
  })
  promise.catch(() => {}) // a failure after the deadline is nobody's business any more
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export interface Until {
  timeoutMs: number
  everyMs?: number
  signal?: AbortSignal
}

/** Asks `probe` until it gives something truthy. Throws `Failed` naming `what` when `timeoutMs` have passed or `signal` aborts. */
export async function until<T>(
  what: string,
  options: Until,
  probe: () => T | Promise<T>,
): Promise<NonNullable<T>> {
  const start = now()
  for (;;) {
    if (options.signal?.aborted) throw new Failed(`stopped while waiting until ${what}`)
    const left = options.timeoutMs - (now() - start)
    if (left <= 0) throw new Failed(`not so within ${options.timeoutMs} ms: ${what}`)
    const value = await within(left, what, Promise.resolve(probe()))
    if (value) return value
    await sleep(
      Math.min(options.everyMs ?? 100, Math.max(1, options.timeoutMs - (now() - start))),
      options.signal,
    )
  }
}
