import { readFileSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { addressOf } from './address.ts'
import { type Handler, serve } from './apiserver.ts'
import { readAtOnce, sync, writeAtomically } from './atomic.ts'
import { run, version } from './cli.ts'
import type { Config } from './config.ts'
import { daemon, type Life } from './daemon.ts'
import { Failed, messageOf } from './errors.ts'
import { connect, type Etcd, type Value } from './etcd.ts'
import { followKeys } from './etcdfollow.ts'
import { register } from './etcdlease.ts'
import { parseLaggards } from './lag.ts'
import { insist } from './listenretry.ts'
import { log } from './log.ts'
import { measured } from './measured.ts'
import { metrics } from './metrics.ts'
import type { NodeStatus } from './nodestatus.ts'
import type { Keeper } from './pausekeeper.ts'
import { released, withPauses } from './pauserestore.ts'
import * as pgbouncer from './pgbouncer.ts'
import { component, etcdComponent, health, poolerHandlers, poolerStatus } from './poolerapi.ts'
import { keysOf, parseCluster, ratchet } from './publish.ts'
import { reloads } from './reloads.ts'
import { modelOf, render, template } from './render.ts'
import { etcdSamples, pauseSamples, publishedSamples } from './samples.ts'
import { allowedNames, apiTls } from './tls.ts'
import { now, since, sleep } from './wait.ts'

const LEASE_MS = 15_000

/** What is still to be done, whether or not the file has to be written. */
interface Owed {
  /** PgBouncer was not seen to do what the file says. */
  reload: boolean
  /** The file was written, and a power cut would leave it empty. */
  sync: boolean
  /** The primaries that it pointed at before: clients may hang there. */
  left: Set<string>
}

/** Writes the file if it is not so already, and makes PgBouncer do what it says. False: there was nothing to do. */
async function point(
  config: Config,
  console: pgbouncer.Console,
  address: string,
  text: string,
  owed: Owed,
): Promise<boolean> {
  const start = now()
  const file = config.pgbouncerConfigFile
  const old = readAtOnce(file)
  if (text === old && !owed.reload) return false
  const load = () =>
    pgbouncer.session(console, async (query) => {
      for (const { name, host } of await pgbouncer.databases(query)) {
        if (config.pgbouncerDatabases.includes(name))
          for (const each of host?.split(',') ?? []) owed.left.add(each)
      }
      // RELOAD says OK to anything; what counts is where the databases point then.
      const found = new Map((await pgbouncer.reload(query)).map(({ name, host }) => [name, host]))
      for (const name of config.pgbouncerDatabases) {
        if (found.get(name) !== address)
          throw new Failed(`after RELOAD ${name} points at ${found.get(name) ?? 'nothing'}`)
      }
      log.info('pgbouncer.pointed', { address, changed: text !== old, elapsed: since(start) })
    })
  if (text !== old) {
    await writeAtomically(file, text, 0o640, false)
    owed.sync = true
  }
  await load()
  if (owed.sync) await sync(file) // afterwards: clients may be waiting
  owed.sync = false
  owed.left.delete(address)
  const drop = (query: pgbouncer.Query) => pgbouncer.dropStragglers(query, owed.left)
  const dropped = await (owed.left.size > 0 ? pgbouncer.session(console, drop) : Promise.resolve(0)).catch(
    (error) => {
      log.warn('pgbouncer.drop', { error })
      return 0
    },
  )
  owed.left.clear()
  if (dropped > 0) {
    const why = 'they hung on an address that is no longer the primary'
    log.warn('pgbouncer.dropped', { connections: dropped, why })
  }
  return true
}

/** The compiled template, made anew when the file has changed. */
function templateOf(file: string) {
  let made: { version: string; render: ReturnType<typeof template> } | undefined
  return () => {
    const { mtimeMs, size, ino } = statSync(file)
    const version = `${mtimeMs} ${size} ${ino}`
    if (made?.version !== version) made = { version, render: template(readFileSync(file, 'utf8'), file) }
    return made.render
  }
}

/** Keeps PgBouncer pointed at what etcd says. */
async function route(
  config: Config,
  console: pgbouncer.Console,
  etcd: Etcd,
  { signal, ready, alive }: Life,
): Promise<void> {
  const keys = keysOf(config)
  const file = config.pgbouncerConfigTemplateFile
  const load = templateOf(file)
  let values: Record<string, Value | null> | null = null
  let wake = new AbortController()
  let news = 0
  const hear = () => {
    news += 1
    wake.abort()
  }
  signal.addEventListener('abort', () => wake.abort(), { once: true })
  process.on('SIGHUP', hear) // a template that has changed is read again whenever it is used
  const settings = { pollMs: config.etcdPollInterval, retryMs: config.etcdRetryInterval, signal }
  const following = followKeys(etcd, [keys.primary, keys.cluster, keys.laggards], settings, (found) => {
    values = found
    hear()
  })
  const did = reloads()
  metrics.collect(() => {
    const always = [...etcdSamples(etcd.seen), ...did.samples()]
    if (!values) return always
    const published = { primary: values[keys.primary] ?? null, cluster: values[keys.cluster] ?? null }
    const drift = published.primary !== null && published.primary.value !== did.pointed()
    return [...always, ...publishedSamples(published), ['pgcm_drift', Number(drift)]]
  })
  const admit = ratchet()
  const owed: Owed = { reload: true, sync: false, left: new Set() }
  let said = false
  let refused = false
  // A rollout must not stop at an etcd that is down, nor systemd start us again and again.
  sleep(5000, signal).then(() => !said && !signal.aborted && ready('waiting for etcd'))
  while (!signal.aborted) {
    const before = news
    let pause = 10_000
    wake = new AbortController()
    const seen = values as Record<string, Value | null> | null
    const address = seen?.[keys.primary]?.value
    const start = now()
    try {
      const cluster = parseCluster(seen?.[keys.cluster] ?? null)
      const { follow, ...epochs } = address ? admit(cluster) : { follow: true }
      if (!follow && !refused) {
        const hint = 'If this cluster was made anew, restart pgcm-proxy.'
        log.warn('proxy.older', { address, ...epochs, kept: 'the file as it was', hint })
      }
      refused = !follow
      if (address && follow) {
        const model = modelOf(config, address, cluster, parseLaggards(seen?.[keys.laggards] ?? null))
        const text = render(load(), model)
        if (await point(config, console, address, text, owed)) did.note(address, start)
        owed.reload = false
        log.cleared('proxy.point')
      } else if (seen && !address) {
        log.trouble('proxy.no-primary', {
          key: config.etcdNamespace + keys.primary,
          hint: 'is pgcm-supervise running?',
        })
      }
      if (address) log.cleared('proxy.no-primary')
    } catch (error) {
      owed.reload = true // the file may be written, and PgBouncer not know of it
      did.note(undefined, start)
      log.trouble('proxy.point', { error, ...(!owed.sync && { kept: 'the file as it was' }) })
      pause = config.pgbouncerRetryInterval
    }
    if (!said && seen) {
      ready(address ? `the primary is ${address}` : 'no primary yet')
      said = true
    }
    alive()
    if (news === before) await sleep(pause, wake.signal)
  }
  await following
}

/** The API of an app node: the PgBouncer half. */
function handlers(
  config: Config,
  console: pgbouncer.Console,
  etcd: Etcd,
  pauses: Keeper,
): Record<string, Handler> {
  return {
    ...poolerHandlers(console, pauses, config),

    async health_check() {
      const answer = async () => `${(await pgbouncer.showDatabases(console)).length} databases`
      return health(await Promise.all([component('pgbouncer', answer), etcdComponent(etcd, config)]))
    },

    async status() {
      const errors: string[] = []
      const pause = pauses.current()
      const pooler = await poolerStatus(console, pause !== null).catch((error) => {
        errors.push(messageOf(error))
        return null
      })
      const address = await addressOf(hostname()).catch(() => null)
      const status: NodeStatus = {
        name: hostname(),
        ...(address && { address }),
        at: new Date().toISOString(),
        api: 'proxy',
        version: version(),
        postgres: null,
        pgbouncer: pooler,
        pause: pause && { expiresAt: pause.expiresAt, owner: pause.owner },
        cluster: null,
        errors,
      }
      return { json: JSON.stringify(status) }
    },
  }
}

async function proxy(config: Config, life: Life): Promise<void> {
  const console = pgbouncer.consoleOf(config)
  if (config.api) return withPauses(config, 'proxy', console, (pauses) => app(config, life, console, pauses))
  await life.watched()
  const etcd = connect(config)
  await route(config, console, etcd, life)
  etcd.close()
}

/** On an app node, where the API is served too. */
async function app(config: Config, life: Life, console: pgbouncer.Console, pauses: Keeper): Promise<void> {
  await life.watched()
  const { signal } = life
  const etcd = connect(config)
  metrics.collect(() => pauseSamples(pauses.current()))
  const tls = apiTls(config)
  const allowed = allowedNames(config, tls)
  const own = measured(handlers(config, console, etcd, pauses))
  const open = () => serve({ bind: config.bindAddress, tls, allowed, handlers: own })
  const api = await insist('api.bind', open, signal)
  const name = hostname()
  const lease = { ttlMs: LEASE_MS, retryMs: config.etcdRetryInterval, signal }
  // Known to others only once they can reach it: a failover asks everybody whom it knows.
  const registering = api.opened.then((server) => {
    if (!server) return
    const entry = JSON.stringify({ name, address: config.apiAddress || `${name}:${server.port}` })
    return register(etcd, keysOf(config).proxies + name, entry, lease)
  })
  await Promise.all([route(config, console, etcd, life), registering])
  await released(pauses)
  await (await api.opened)?.close()
  etcd.close()
}

export const main = () =>
  run('proxy', (config, parsed) => daemon('proxy', parsed, (life) => proxy(config, life)))
