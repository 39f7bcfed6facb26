import { hostname } from 'node:os'
import { join } from 'node:path'
import { serve } from './apiserver.ts'
import { run } from './cli.ts'
import { type ClusterView, type Names, primaryOf } from './cluster.ts'
import { addressBook, alerts, courtesy, pokes, publication } from './clusterwatch.ts'
import type { Config } from './config.ts'
import { daemon, type Life } from './daemon.ts'
import { demotion } from './demotion.ts'
import { connect, type Value } from './etcd.ts'
import { followKeys } from './etcdfollow.ts'
import { watchLag } from './lag.ts'
import { insist } from './listenretry.ts'
import { log } from './log.ts'
import { measured } from './measured.ts'
import { metrics } from './metrics.ts'
import { nodeHandlers } from './nodeapi.ts'
import { lookAt, readCib, type Snapshot, sweep, unmigrate } from './pacemaker.ts'
import type { Keeper } from './pausekeeper.ts'
import { released, withPauses } from './pauserestore.ts'
import * as pgbouncer from './pgbouncer.ts'
import { afterPromotion, promotedEpoch } from './promotion.ts'
import { Behind, Doubtful, decide, keysOf, parseCluster, publish } from './publish.ts'
import { etcdSamples, lagSamples, pauseSamples, publishedSamples, viewSamples } from './samples.ts'
import { allowedNames, apiTls } from './tls.ts'
import { now, since, sleep } from './wait.ts'

const POKE_FILE = 'poke'
const ownDirectory = () => process.env.RUNTIME_DIRECTORY ?? '/run/pgcm-supervise'
/** After a poke the CIB may still be on its way: these are the delays of further looks. */
const AFTERLOOKS_MS = [60, 200]
/**
 * Alerts come by the dozen where a node starts or a standby attaches. So long after a look none of them causes another; but a
 * promotion here is heard of at once, without a look.
 */
const SPACING_MS = 250
/** How long Pacemaker is left alone with a promotion here that has been told already: the CPU is for the clients that come. */
const TOLD_MS = 1000
/** How long the wait is for the next look where no look is urgent: whatever happens wakes us. */
const EASY_MS = 10_000
/** systemd is told that we live at least so often, however long we wait. */
const ALIVE_MS = 5000
/** How long a look that is due is put off where clients are held at that moment. */
const HELD_MS = 1000
/** What rings for a look that no alert asked for. */
const RING = 'ring'
/** A node that sees less than etcd says for longer than this is not just late. */
const PATIENCE_MS = 3000
/**
 * Longer than any look is apart. A view that etcd refused is not written for so long after that, even if etcd has lost why;
 * one that no look has confirmed for so long, not before the next.
 */
const DOUBT_MS = 15_000

interface Follower {
  /** A look is due at once when it rings. */
  bell: EventTarget
  /** Called with each new view. */
  seen: (view: ClusterView) => Promise<void>
  /** Called after a look that found nothing new. */
  calm: () => void
  /** Whether the CPU is for others right now. */
  busy: () => boolean
  /** Whether all that was seen is where it belongs. */
  told: () => boolean
}

/** Follows Pacemaker, until the signal. Looks less while busy, and while all is told and Pacemaker's alerts are known to arrive. */
async function follow(
  config: Config,
  names: Names,
  { signal, alive }: Life,
  { bell, seen, calm, busy, told }: Follower,
): Promise<void> {
  let wake = new AbortController()
  let poked = 0
  let pokedBefore = 0
  let looks = AFTERLOOKS_MS.length
  const warned = alerts(hostname())
  const poke = () => {
    poked += 1
    wake.abort()
  }
  signal.addEventListener('abort', () => wake.abort(), { once: true })
  bell.addEventListener(RING, poke, { signal })
  await pokes(join(ownDirectory(), POKE_FILE), signal, () => {
    warned.heard()
    looks = 0
    poke()
  })
  async function rest(ms: number): Promise<void> {
    for (let left = ms; left > 0 && !wake.signal.aborted; left -= ALIVE_MS) {
      alive()
      await sleep(Math.min(left, ALIVE_MS), wake.signal)
    }
  }
  let last: Snapshot | undefined
  let lookedAt = Number.NEGATIVE_INFINITY
  while (!signal.aborted) {
    const woken = poked !== pokedBefore
    pokedBefore = poked
    wake = new AbortController()
    try {
      const bounds = { timeoutMs: config.pacemakerGetTimeout, signal }
      const epoch = woken && last ? promotedEpoch(names) : null
      const early = epoch !== null && last && afterPromotion(last.view, epoch, hostname())
      if (early) {
        last = { view: early, cib: '' }
        warned.seen(early)
        await seen(early)
        await sleep(TOLD_MS, signal)
      }
      if (woken) await sleep(lookedAt + SPACING_MS - now(), wake.signal)
      if (poked !== pokedBefore) continue
      lookedAt = now()
      const cib = await readCib(bounds)
      if (cib !== last?.cib) {
        last = await lookAt(cib, names, bounds)
        warned.seen(last.view)
        await seen(last.view)
      } else calm()
      log.cleared('pacemaker.read')
    } catch (error) {
      if (!signal.aborted) log.trouble('pacemaker.read', { error })
    }
    alive()
    if (poked !== pokedBefore) {
      await sleep(5, signal) // pokes come in bursts
    } else {
      const afterlook = AFTERLOOKS_MS[looks]
      looks += 1
      const easy = () => busy() || (told() && last !== undefined && warned.reliable(last.cib))
      const interval = config.pacemakerPollInterval
      await rest(afterlook ?? interval)
      const most = afterlook === undefined ? EASY_MS : 0
      for (let ms = interval; ms < most && easy() && !wake.signal.aborted; ms += interval)
        await rest(interval)
      if (busy()) await rest(HELD_MS)
    }
  }
}

async function supervise(
  config: Config,
  life: Life,
  console: pgbouncer.Console,
  pauses: Keeper,
): Promise<void> {
  await life.watched()
  await sweep().catch((error) => log.warn('pacemaker.sweep', { error }))
  const { signal } = life
  const names = { resource: config.pacemakerResource, clone: config.pacemakerClone }
  const etcd = connect(config)
  const keys = keysOf(config)
  const book = addressBook()
  let view: ClusterView | null = null
  let lookedAt = now()
  let addresses = new Map<string, string | null>()
  let publishing: Promise<void> = Promise.resolve()
  let known: Record<string, Value | null> | null = null
  let behindSince: number | undefined
  let untold = false
  let later: NodeJS.Timeout | undefined
  const bell = new EventTarget()
  /** Whether etcd is to be told right after the next look. */
  let owed = false
  signal.addEventListener('abort', () => clearTimeout(later), { once: true })
  /** The view that etcd refused last, as being old. */
  let refused: { epoch: number; primary: string | null; at: number } | undefined

  const published = () =>
    known && { primary: known[keys.primary] ?? null, cluster: known[keys.cluster] ?? null }

  /** Whether etcd says something else than this node. Without quorum it has no say, so it cannot be at odds. */
  function drift(): boolean {
    const found = published()
    return Boolean(
      found && view?.quorum && !('keep' in decide(found, publication(view, addresses, new Date()))),
    )
  }

  /**
   * Sees to it that etcd is told what this node sees, by this node or by one that is nearer to it. Where that one has said something
   * else meanwhile, it may have seen more: this node looks again before it speaks.
   */
  function tell(reason: string): Promise<void> {
    const wait = view ? courtesy(view, hostname()) : 0
    if (wait === 0) return tellNow(reason)
    // Not put off by what comes after: changes may go on for long.
    later ??= setTimeout(() => {
      later = undefined
      if (!drift()) return tellNow(reason)
      owed = true
      bell.dispatchEvent(new Event(RING))
    }, wait)
    return publishing
  }

  /** The same, after a look. */
  function tellSeen(reason: string): Promise<void> {
    const due = owed
    owed = false
    return due ? tellNow(reason) : tell(reason)
  }

  /** Tells etcd, if this node is in quorum; one at a time. */
  function tellNow(reason: string): Promise<void> {
    clearTimeout(later)
    later = undefined
    publishing = publishing.then(async () => {
      if (!view?.quorum || signal.aborted) return
      const start = now()
      // Pacemaker has been silent for longer than looks are apart, and whatever etcd knew better may be lost: a look comes first.
      if (start - lookedAt > DOUBT_MS) {
        untold = true
        owed = true
        bell.dispatchEvent(new Event(RING))
        return
      }
      const current = view
      const asked = { epoch: view.epoch.promoted, primary: primaryOf(view)?.name ?? null }
      try {
        addresses = await book(current.nodes.map((node) => node.name))
        // Whoever empties etcd must not give the word to a node that lags: the others have theirs there long before this ends.
        const same = refused?.epoch === asked.epoch && refused.primary === asked.primary
        const doubted = same && start - (refused?.at ?? 0) < DOUBT_MS
        const wrote = await publish(etcd, keys, publication(current, addresses, new Date()), known, doubted)
        refused = undefined
        behindSince = undefined
        untold = false
        log.cleared('publish')
        if (wrote?.primary) {
          log.info('primary.published', {
            address: wrote.primary,
            epoch: asked.epoch,
            reason,
            elapsed: since(start),
          })
        } else if (wrote) log.debug('cluster.published', { reason, elapsed: since(start) })
      } catch (error) {
        untold = true
        if (error instanceof Doubtful) return
        // Another node's supervise may have heard of a promotion some milliseconds before us.
        if (error instanceof Behind) {
          behindSince ??= start
          refused = { ...asked, at: start }
        }
        if (!(error instanceof Behind) || start - (behindSince ?? start) > PATIENCE_MS)
          log.trouble('publish', { error })
      }
    })
    return publishing
  }

  metrics.collect(() => {
    const always = [
      ...viewSamples(view, lookedAt, hostname()),
      ...etcdSamples(etcd.seen),
      ...pauseSamples(pauses.current()),
    ]
    const found = published()
    return found ? [...always, ...publishedSamples(found), ['pgcm_drift', Number(drift())]] : always
  })
  const lag = watchLag(config, { etcd, view: () => view, known: () => known }, signal)
  metrics.collect(() => lagSamples(lag.lags()))
  const tls = apiTls(config)
  const allowed = allowedNames(config, tls)
  const move = demotion(names, ownDirectory(), async () => {
    // Where another node is primary, a constraint is that of a later move.
    const found = view && primaryOf(view)
    if (!found || found.name === hostname()) await unmigrate(names, { timeoutMs: 5000 })
  })
  await move.giveUp('pgcm-supervise was restarted')
  const publishedEpoch = () => parseCluster(known?.[keys.cluster] ?? null)?.epoch ?? 0
  const handlers = measured(
    nodeHandlers(config, names, console, etcd, pauses, move, () => view, publishedEpoch),
  )
  const open = () => serve({ bind: config.bindAddress, tls, allowed, handlers })
  const api = await insist('api.bind', open, signal)

  // A key that was deleted or overwritten comes back, whoever did it.
  const repairing = followKeys(
    etcd,
    [keys.primary, keys.cluster, keys.laggards],
    { pollMs: config.etcdPollInterval, retryMs: config.etcdRetryInterval, signal },
    (values) => {
      known = values
      lag.repair()
      return tell('etcd changed')
    },
  )
  let primary: string | null | undefined
  const watching = follow(config, names, life, {
    bell,
    async seen(found) {
      view = found
      lookedAt = now()
      const name = primaryOf(found)?.name ?? null
      if (name !== primary)
        log.info('primary.seen', {
          node: name,
          epoch: found.epoch.promoted,
          quorum: found.quorum,
          cib: found.cib,
        })
      if (primary === undefined) life.ready(name ? `${name} is primary` : 'no primary')
      primary = name
      await tellSeen('pacemaker changed')
    },
    calm() {
      lookedAt = now()
      // Also where a key went away before anybody had seen it: to the eye that follows nothing has changed then.
      if (untold || drift()) tellSeen('not told yet')
      else owed = false
    },
    // While clients are held a primary is on its way: the CPU is for it, and its promotion will poke us.
    busy: () => pauses.current() !== null,
    told: () => primary !== null && !untold && !drift(),
  })
  // Without Pacemaker there is nothing to publish, but a paused PgBouncer must be reachable all the same.
  sleep(5000, signal).then(
    () => primary === undefined && !signal.aborted && life.ready('waiting for Pacemaker'),
  )

  await Promise.all([watching, repairing, lag.ended])
  await move.giveUp('pgcm-supervise was stopped')
  await released(pauses)
  await (await api.opened)?.close()
  etcd.close()
}

export const main = () =>
  run('supervise', (config, parsed) =>
    daemon('supervise', parsed, (life) => {
      const console = pgbouncer.consoleOf(config)
      return withPauses(config, 'supervise', console, (pauses) => supervise(config, life, console, pauses))
    }),
  )
