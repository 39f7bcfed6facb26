import { watch } from 'node:fs'
import { chmod, open } from 'node:fs/promises'
import { addressOf } from './address.ts'
import { type ClusterView, primaryOf } from './cluster.ts'
import { messageOf } from './errors.ts'
import { log } from './log.ts'
import type { Cluster } from './publish.ts'
import { now, within } from './wait.ts'

/**
 * Makes the file by which Pacemaker's alert agent wakes us, and calls `poke` whenever somebody writes to it. Where it cannot be
 * had the polls have to do.
 */
export async function pokes(file: string, signal: AbortSignal, poke: () => void): Promise<void> {
  try {
    const handle = await open(file, 'a')
    await handle.close()
    await chmod(file, 0o666) // the alert agent runs as another user; all that a write does is make us look
    const watcher = watch(file, { persistent: false }, poke)
    watcher.on('error', (error) => log.warn('pacemaker.poke', { error }))
    signal.addEventListener('abort', () => watcher.close(), { once: true })
  } catch (error) {
    log.warn('pacemaker.poke', { error: messageOf(error), effect: 'polls only' })
  }
}

/** A poke may come a little before what it tells of is in the CIB. */
const ANNOUNCED_MS = 1000
/** How long somebody who kept something from us is distrusted: an agent that was killed is no reason to poll for months. */
const DISTRUST_MS = 600_000

/**
 * Whether those who wake us can be relied on: the CIB names our alert agent, and nothing that they tell of was found
 * without a word of it lately. It tells of nodes that come and go, the resource agent of a promotion of `self`.
 */
export function alerts(self: string, clock: () => number = now) {
  let missedAt = -Infinity
  let heardAt = -Infinity
  let last: { promoted: boolean; online: string } | undefined
  return {
    heard(): void {
      missedAt = -Infinity
      heardAt = clock()
    },
    seen(view: ClusterView): void {
      const online = String(view.nodes.flatMap(({ name, online }) => (online ? name : [])).sort())
      const promoted = primaryOf(view)?.name === self
      const worthy = last && ((promoted && !last.promoted) || online !== last.online)
      if (worthy && clock() - heardAt > ANNOUNCED_MS) missedAt = clock()
      last = { promoted, online }
    },
    reliable: (cib: string): boolean =>
      clock() - missedAt > DISTRUST_MS && /<alert [^>]*path="[^"]*pgcm-alert"/.test(cib),
  }
}

const LOOKUP_MS = 500

/** How old an address may be before it is looked up again, behind the back of whoever asked. */
const STALE_MS = 10_000

/** Looks up node addresses. Nobody waits for one that is known; one that cannot be looked up right now stays what it was. */
export function addressBook(lookup: (node: string) => Promise<string> = addressOf, staleMs = STALE_MS) {
  const known = new Map<string, { address: string; at: number }>()
  async function refresh(node: string): Promise<void> {
    try {
      const address = await within(LOOKUP_MS, `the address of ${node}`, lookup(node))
      known.set(node, { address, at: now() })
      log.cleared(`address.${node}`)
    } catch (error) {
      log.trouble(`address.${node}`, { error, kept: known.get(node)?.address })
    }
  }
  return async (nodes: string[]): Promise<Map<string, string | null>> => {
    const pairs = nodes.map(async (node) => {
      const found = known.get(node)
      if (!found) await refresh(node)
      else if (now() - found.at >= staleMs) void refresh(node)
      return [node, known.get(node)?.address ?? null] as const
    })
    return new Map(await Promise.all(pairs))
  }
}

/** What the world may know of the cluster. */
export function publication(view: ClusterView, addresses: Map<string, string | null>, at: Date): Cluster {
  return {
    epoch: view.epoch.promoted,
    primary: primaryOf(view)?.name ?? null,
    last: null,
    nodes: view.nodes.map(({ name, online, role, status, dataStatus, score }) => ({
      name,
      address: addresses.get(name) ?? null,
      online,
      role,
      status,
      dataStatus,
      score,
    })),
    updatedAt: at.toISOString(),
  }
}

/** How long somebody else than the primary's own node leaves it to that node to publish. */
const COURTESY_MS = 1000

/**
 * How long `self` waits before it publishes what it sees, in ms. The primary's own node does so at once: three nodes that all wrote
 * each step of a move would wake every proxy for each, while the new primary needs the machines' CPU. Without a primary
 * nobody waits for the news.
 */
export function courtesy(view: ClusterView, self: string): number {
  if (primaryOf(view)?.name === self) return 0
  return view.dc === self ? COURTESY_MS : 2 * COURTESY_MS
}
