import { readdirSync } from 'node:fs'
import { type ClusterView, primaryOf, standbysOf } from './cluster.ts'
import type { Value } from './etcd.ts'
import type { Lag } from './lag.ts'
import type { Logger } from './log.ts'
import type { Sample } from './metrictable.ts'
import type { Pause } from './pausekeeper.ts'
import { parseCluster } from './publish.ts'
import { now } from './wait.ts'

const secondsSince = (start: number) => (now() - start) / 1000
const unix = (time: string) => (Date.parse(time) || 0) / 1000

/** What Pacemaker says, as `here` sees it. `lookedAt` (of `now()`): when it last did, or when the daemon started. */
export function viewSamples(view: ClusterView | null, lookedAt: number, here: string): Sample[] {
  const age: Sample = ['pgcm_pacemaker_view_age_seconds', secondsSince(lookedAt)]
  if (!view) return [age]
  const primary = primaryOf(view)?.name
  const states = standbysOf(view).map(({ dataStatus }) => dataStatus?.replace(/^.*\|/, '').toLowerCase())
  const count = <T>(all: T[], wanted: T) => all.filter((each) => each === wanted).length
  const constraints = view.constraints.map(({ kind }) => kind)
  return [
    age,
    ['pgcm_quorum', Number(view.quorum)],
    ['pgcm_seen_epoch', view.epoch.promoted],
    ['pgcm_nodes', view.nodes.length],
    ['pgcm_promoted_here', Number(view.nodes.some((n) => n.name === here && n.role === 'Promoted'))],
    ...view.nodes.map((n): Sample => ['pgcm_seen_primary', Number(n.name === primary), { node: n.name }]),
    ...['sync', 'potential', 'async'].map(
      (state): Sample => ['pgcm_standbys', count(states, state), { state }],
    ),
    ...(['cli', 'ours'] as const).map(
      (kind): Sample => ['pgcm_constraints', count(constraints, kind), { kind }],
    ),
  ]
}

/** What the two keys in etcd said at the last look. */
export function publishedSamples(keys: { primary: Value | null; cluster: Value | null }): Sample[] {
  const { primary } = keys
  const cluster = parseCluster(keys.cluster)
  const named = primary !== null && (cluster === null || cluster.primary !== null)
  const labels = { node: cluster?.primary ?? '', address: primary?.value ?? '' }
  return [
    ['pgcm_published_primary', Number(named), labels],
    ['pgcm_published_epoch', cluster?.epoch ?? 0],
  ]
}

/** How this daemon gets on with etcd. */
export const etcdSamples = ({ readAt, watching }: { readAt: number; watching: boolean }): Sample[] => [
  ['pgcm_etcd_read_age_seconds', secondsSince(readAt)],
  ['pgcm_etcd_watch_up', Number(watching)],
]

/** How far the standbys lag, as the primary measures it. */
export const lagSamples = (lags: Map<string, Lag>): Sample[] =>
  [...lags].map(([node, { least }]) => ['pgcm_standby_lag_seconds', least / 1000, { node }])

export const pauseSamples = (pause: Pause | null): Sample[] => [
  ['pgcm_paused', Number(pause !== null)],
  ['pgcm_paused_since_timestamp_seconds', unix(pause?.createdAt ?? '')],
  ['pgcm_paused_until_timestamp_seconds', unix(pause?.expiresAt ?? '')],
]

export const logSamples = (log: Logger): Sample[] =>
  log
    .counts()
    .flatMap(({ level, event, times, lasting }): Sample[] => [
      ['pgcm_log_events_total', times, { level, event }],
      ...(lasting === null ? [] : [['pgcm_trouble', Number(lasting), { event }] as const]),
    ])

export function processSamples(): Sample[] {
  const { user, system } = process.cpuUsage()
  return [
    ['process_resident_memory_bytes', process.memoryUsage.rss()],
    ['process_cpu_seconds_total', (user + system) / 1e6],
    ['process_start_time_seconds', Date.now() / 1000 - process.uptime()],
    ['process_open_fds', readdirSync('/proc/self/fd').length],
  ]
}
