import { setFlagsFromString } from 'node:v8'
import { version } from './cli.ts'
import type { Parsed } from './config.ts'
import { type Config, formatDuration, type ScriptName } from './config.ts'
import { messageOf } from './errors.ts'
import { insist } from './listenretry.ts'
import { log } from './log.ts'
import { metrics } from './metrics.ts'
import { serveMetrics } from './metricsserver.ts'
import { logSamples, processSamples } from './samples.ts'
import { sh } from './sh.ts'
import { sleep } from './wait.ts'

/** Tells systemd, where it started us. Not being heard is no reason to stop working. */
export async function notify(...words: string[]): Promise<void> {
  if (!process.env.NOTIFY_SOCKET) return
  await sh(['systemd-notify', ...words], { timeoutMs: 5000 }).catch((error) =>
    log.debug('systemd.notify', { error }),
  )
}

export interface Life {
  /** Aborts when the daemon shall end. */
  signal: AbortSignal
  /** To be called once the daemon does its work. */
  ready(status: string): void
  /** To be called by the main loop at least every few seconds; where that stops, systemd starts us anew. */
  alive(): void
  /** Opens the page of metrics; to be called first, but for taking up a pause. Throws `Refused`. */
  watched(): Promise<void>
}

/** How long the main loop may be silent before the watchdog is no longer told that all is well. */
const SILENCE_MS = 15_000

export const stateDir = (config: Config, script: ScriptName): string =>
  config.stateDir || process.env.STATE_DIRECTORY?.split(':')[0] || `/var/lib/pgcm/${script}`

/** What a daemon says of itself, at its `...-metrics-address`, unless that is empty. Throws `Refused`. */
async function watched(script: 'supervise' | 'proxy', { config, fileHash }: Parsed, signal: AbortSignal) {
  const kind = script === 'proxy' && config.api ? 'app' : 'postgres'
  const built = { daemon: script, kind, version: version(), node_version: process.version }
  metrics.collect(() => [
    ['pgcm_build_info', 1, built],
    ['pgcm_config_hash', Number.parseInt(fileHash || '0', 16), { kind }],
    ...logSamples(log),
    ...processSamples(),
  ])
  const address = script === 'supervise' ? config.superviseMetricsAddress : config.proxyMetricsAddress
  if (!address) return undefined
  const option = `${script}-metrics-address`
  return insist('metrics.listen', () => serveMetrics(option, address, () => metrics.text()), signal)
}

/** Runs a daemon until SIGTERM, SIGINT or SIGQUIT. A second signal changes nothing: it is ending already. */
export async function daemon(
  script: 'supervise' | 'proxy',
  parsed: Parsed,
  body: (life: Life) => Promise<void>,
): Promise<void> {
  // A daemon that is idle for long would compile all its code anew when it matters.
  setFlagsFromString('--no-flush-bytecode')
  // Nor would optimised code pay; its compiler works beside the one move in months, for which the CPU is needed.
  setFlagsFromString('--no-opt')
  const stop = new AbortController()
  for (const name of ['SIGTERM', 'SIGINT', 'SIGQUIT'] as const) {
    process.on(name, () => {
      log.info('daemon.stop', { signal: name, again: stop.signal.aborted || undefined })
      if (!stop.signal.aborted) notify('--stopping')
      stop.abort()
    })
  }
  process.on('SIGHUP', () => log.info('daemon.hangup', { effect: 'none' }))

  let heard = performance.now()
  const watchdogMs = Number(process.env.WATCHDOG_USEC ?? 0) / 1000
  const watch = async () => {
    while (watchdogMs > 0 && !stop.signal.aborted) {
      const silent = performance.now() - heard
      if (silent < SILENCE_MS) await notify('WATCHDOG=1')
      else log.error('daemon.silent', { for: formatDuration(Math.round(silent)) })
      await sleep(watchdogMs / 2, stop.signal) // as sd_watchdog_enabled(3) recommends
    }
  }

  let page: Awaited<ReturnType<typeof watched>>
  const { file, fileHash } = parsed
  log.info('daemon.start', {
    script,
    version: version(),
    node: process.version,
    config: file || 'defaults',
    hash: fileHash,
  })
  const watching = watch().catch((error) => log.error('daemon.watchdog', { error: messageOf(error) }))
  await body({
    signal: stop.signal,
    ready: (status) => {
      log.info('daemon.ready', { status })
      notify('--ready', `--status=${status}`)
    },
    alive: () => {
      heard = performance.now()
    },
    watched: async () => {
      page = await watched(script, parsed, stop.signal)
    },
  })
  stop.abort()
  await watching
  ;(await page?.opened)?.close()
  log.info('daemon.end')
}
