/** Standbys that replay too far behind to read from: the primary's node measures them, and says in etcd who they are. */
import { hostname } from 'node:os'
import { type ClusterView, primaryOf } from './cluster.ts'
import type { Config } from './config.ts'
import type { Etcd, Value } from './etcd.ts'
import { log } from './log.ts'
import { type Positions, positions, serverOf, session } from './postgres.ts'
import { keysOf } from './publish.ts'
import { now, sleep } from './wait.ts'

/** Where the primary's WAL ended at some time, in ms. */
interface Mark {
  at: number
  lsn: number
}

/** Between what two times a standby lags, in ms. */
export interface Lag {
  least: number
  most: number
}

const KEEP_MS = 3_600_000
const PATIENCE_MS = 10_000

/**
 * How far standbys lag in time, from what the primary had written when: PostgreSQL's own replay_lag stands still while replay does.
 * What is longer than an hour is an hour.
 */
export function lagMeter() {
  const marks: Mark[] = []
  return (at: number, { lsn, replayed }: Positions): Map<string, Lag> => {
    while (at - (marks[0]?.at ?? at) > KEEP_MS) marks.shift()
    marks.push({ at, lsn })
    const lagOf = (reached: number): Lag => {
      const missing = marks.find((mark) => mark.lsn > reached)
      const last = marks.findLast((mark) => mark.lsn <= reached)
      return { least: missing ? at - missing.at : 0, most: last ? at - last.at : Number.POSITIVE_INFINITY }
    }
    return new Map([...replayed].map(([name, reached]) => [name, lagOf(reached)]))
  }
}

/**
 * Who lags now: beyond the limit for sure, or since before and not yet within it for sure. Of one that was not measured, as it does
 * not stream, nothing new is known.
 */
export function laggards(before: string[], lags: Map<string, Lag>, limitMs: number): string[] {
  const still = (name: string) => (lags.get(name)?.most ?? Number.POSITIVE_INFINITY) > limitMs
  const beyond = [...lags].flatMap(([name, { least }]) => (least > limitMs ? name : []))
  return [...new Set([...before.filter(still), ...beyond])].sort()
}

/** The names in etcd; none where there is no list. */
export function parseLaggards(value: Value | null): string[] {
  try {
    const names: unknown = JSON.parse(value?.value ?? '[]')
    return Array.isArray(names) ? names.filter((name) => typeof name === 'string') : []
  } catch {
    return []
  }
}

export interface Sources {
  etcd: Etcd
  /** What Pacemaker says. */
  view: () => ClusterView | null
  /** What etcd said last. */
  known: () => Record<string, Value | null> | null
}

/**
 * Keeps the list in etcd while this node is primary, until `signal` aborts. Nobody else writes it, so it outlives a promotion: a
 * standby that lagged is on it until the new primary has seen it catch up.
 * @returns `lags`: how far each standby lags; of none elsewhere than on the primary. `repair` is for when etcd has changed
 */
export function watchLag(
  config: Config,
  { etcd, view, known }: Sources,
  signal: AbortSignal,
): { ended: Promise<void>; lags: () => Map<string, Lag>; repair: () => void } {
  const keys = keysOf(config)
  // Without a limit nobody is too late, and who was on the list before comes off it.
  const limitMs = config.standbyMaxLag || Number.POSITIVE_INFINITY
  const everyMs = Math.min(10_000, Math.max(1000, limitMs / 5))
  let lags = new Map<string, Lag>()
  let failing: number | undefined
  const primary = () => {
    const seen = view()
    return !signal.aborted && seen !== null && primaryOf(seen)?.name === hostname()
  }

  async function tell(): Promise<void> {
    const found = known()
    if (!found) return
    const before = parseLaggards(found[keys.laggards] ?? null)
    const nodes = view()?.nodes.map(({ name }) => name) ?? []
    const after = laggards(before, lags, limitMs).filter((name) => nodes.includes(name))
    if (String(after) === String(before)) return
    // As long as the primary in etcd is the one that we know, which is this node.
    const guard = {
      [keys.cluster]: found[keys.cluster] ?? null,
      [keys.laggards]: found[keys.laggards] ?? null,
    }
    if (await etcd.replace(guard, { [keys.laggards]: JSON.stringify(after) }))
      log.info('standbys.lag', { lagging: after, before })
  }

  function able(): void {
    failing = undefined
    log.cleared('standbys.lag')
  }

  function unable(error: unknown): void {
    failing ??= now()
    // A primary that is demoted hangs up before Pacemaker says so.
    if (primary() && now() - failing > PATIENCE_MS) log.trouble('standbys.lag', { error })
  }

  async function measure(): Promise<void> {
    const meter = lagMeter()
    await session(serverOf(config), async (query) => {
      while (primary()) {
        lags = meter(now(), await positions(query))
        await tell().then(able, unable)
        await sleep(everyMs, signal)
      }
    })
  }

  async function loop(): Promise<void> {
    while (!signal.aborted) {
      await sleep(everyMs, signal)
      if (!primary()) {
        failing = undefined
        continue
      }
      await measure().catch(unable)
      lags = new Map()
    }
  }
  return {
    ended: loop(),
    lags: () => lags,
    repair() {
      if (primary() && lags.size > 0) tell().catch((error) => log.debug('standbys.lag', { error })) // the next measurement tells again
    },
  }
}
