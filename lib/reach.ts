/** Getting through to machines while they change roles, die and come back. */

import type { Api } from './api.ts'
import type { Tell } from './pipeline.ts'
import type { Base } from './run.ts'
import type { Member } from './survey.ts'
import { now, sleep } from './wait.ts'

/** A pause is given up this long before it would end by itself. */
const MARGIN = 300

/** Until when clients may be held, whatever happens. */
const holdUntil = ({ pausedAt = now(), times }: Base) => pausedAt + times.pauseExpiry - MARGIN

/** Until when the move may take: what is left of the pauses then is for settling who is primary instead. */
export const moveUntil = ({ pausedAt = now(), times }: Base) =>
  pausedAt + Math.min(times.pauseExpiry * 0.75, times.maxPause || Infinity)

/** Its failure is looked at when its turn comes. */
export function quietly<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}

/** Answers once PostgreSQL of that node takes writes. */
export const takesWrites = (node: Api, timeoutMs: number, signal: AbortSignal) =>
  node.writable({ timeoutMs: Math.round(timeoutMs), deadlineMs: Math.round(timeoutMs) + 100, signal })

/** Ends the pause of one PgBouncer: once it points at `address`, for which there is time as long as the pause lasts. */
export async function release(
  run: Base,
  api: Api,
  owner: string,
  address: string | undefined,
  signal: AbortSignal,
): Promise<{ stallMs: number }> {
  const { resumeTimeout } = run.times
  const timeoutMs = address === undefined ? resumeTimeout : Math.max(resumeTimeout, holdUntil(run) - now())
  return persist(timeoutMs, signal, (left) =>
    api.resume({ owner, address, timeoutMs: left, deadlineMs: left + 100, signal }),
  )
}

/**
 * After a move that went wrong: the address of a primary that takes writes, the old one or another; undefined once
 * the pauses are nearly over. At the old primary it looks twice: a demotion that was on its way when the constraint
 * was removed may still hit it after it has answered.
 */
export async function settle(run: Base, signal: AbortSignal, tell: Tell): Promise<string | undefined> {
  tell('waiting for a primary that takes writes')
  let seen: string | undefined
  while (now() < holdUntil(run) && !signal.aborted) {
    const found = await writable(run, signal)
    if (found && (found.epoch > run.epoch || found.address === seen)) return found.address
    seen = found?.address
    await sleep(found ? 400 : 100, signal)
  }
  return undefined
}

/** Who is published as primary, if that one takes a write before another is. */
async function writable(run: Base, signal: AbortSignal) {
  const over = new AbortController()
  try {
    const published = await run.world.published()
    const node = run.nodes.find(({ name }) => name === published?.primary)
    if (!published || !node) return undefined
    run.world.watchPrimary(({ epoch, primary }) => {
      if (epoch !== published.epoch || primary !== published.primary) over.abort()
    }, over.signal)
    await takesWrites(node.api, 1500, AbortSignal.any([signal, over.signal]))
    return published
  } catch {
    return undefined // it is asked again
  } finally {
    over.abort()
  }
}

export const unmigrateAnywhere = (run: Base, signal: AbortSignal): Promise<void> =>
  persist(run.times.pacemakerTimeout, signal, (left) =>
    onAnyNode(run.nodes, (node) => node.unmigrate({ deadlineMs: Math.min(left, 5000), signal }), signal),
  )

/** The first node that does it; the error of the first where none does. */
async function onAnyNode(
  nodes: Member[],
  act: (node: Api) => Promise<unknown>,
  signal?: AbortSignal,
): Promise<void> {
  let first: unknown
  for (const { api } of nodes) {
    if (signal?.aborted) break
    try {
      await act(api)
      return
    } catch (error) {
      first ??= error
    }
  }
  throw first ?? signal?.reason
}

/** Tries again, each 200 ms, for so long. */
export async function persist<T>(
  timeoutMs: number,
  signal: AbortSignal,
  work: (leftMs: number) => Promise<T>,
): Promise<T> {
  const end = now() + timeoutMs
  for (;;) {
    try {
      return await work(Math.max(1, Math.round(end - now())))
    } catch (error) {
      if (signal.aborted || now() + 200 > end) throw error
      await sleep(200, signal)
    }
  }
}
