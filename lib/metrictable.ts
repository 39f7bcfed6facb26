interface Declared {
  type: 'gauge' | 'counter' | 'histogram'
  on: readonly ('supervise' | 'proxy')[]
  labels?: readonly string[]
  help: string
}

const both = ['supervise', 'proxy'] as const
const supervise = ['supervise'] as const
const proxy = ['proxy'] as const

/** Each metric once: this table makes the page that Prometheus reads, and docs/monitoring.md, the alerts and the dashboard are held against it. */
export const table = {
  // What it is
  pgcm_build_info: {
    type: 'gauge',
    on: both,
    labels: ['daemon', 'kind', 'version', 'node_version'],
    help: '1; kind says which machine this is, postgres or app',
  },
  pgcm_config_hash: {
    type: 'gauge',
    on: both,
    labels: ['kind'],
    help: 'First 48 bits of the SHA-256 of the settings file, the hash of event daemon.start; 0 without a file',
  },

  // What Pacemaker says
  pgcm_pacemaker_view_age_seconds: {
    type: 'gauge',
    on: supervise,
    help: 'Time since Pacemaker last gave its view',
  },
  pgcm_quorum: { type: 'gauge', on: supervise, help: '1 if this node is in quorum' },
  pgcm_seen_primary: {
    type: 'gauge',
    on: supervise,
    labels: ['node'],
    help: '1 for the node that is the primary to this one; 0 for the others, and for all without quorum',
  },
  pgcm_seen_epoch: {
    type: 'gauge',
    on: supervise,
    help: 'Newest epoch in which anybody was promoted, to this node',
  },
  pgcm_promoted_here: {
    type: 'gauge',
    on: supervise,
    help: "1 if this node's Pacemaker has the promoted instance on this very node, in quorum or not",
  },
  pgcm_nodes: { type: 'gauge', on: supervise, help: 'Nodes of the cluster, online or not' },
  pgcm_standbys: {
    type: 'gauge',
    on: supervise,
    labels: ['state'],
    help: 'Standbys that stream: sync, potential or async; with sync_method any all are sync',
  },
  pgcm_standby_lag_seconds: {
    type: 'gauge',
    on: supervise,
    labels: ['node'],
    help: 'How far the replay of a standby that streams is behind at least, measured on the primary; an hour stands for more',
  },
  pgcm_constraints: {
    type: 'gauge',
    on: supervise,
    labels: ['kind'],
    help: 'Location constraints left by crm_resource (cli) or by a failover (ours)',
  },

  // What etcd says
  pgcm_etcd_read_age_seconds: {
    type: 'gauge',
    on: both,
    help: "Time since the last linearizable read of the keys, or since the daemon's start",
  },
  pgcm_etcd_watch_up: {
    type: 'gauge',
    on: both,
    help: '1 while a member has accepted the watch of the keys',
  },
  pgcm_published_primary: {
    type: 'gauge',
    on: both,
    labels: ['node', 'address'],
    help: '1 if etcd names a primary; 0 if it names none, with the last address',
  },
  pgcm_published_epoch: { type: 'gauge', on: both, help: 'Epoch of the cluster in etcd' },
  pgcm_drift: {
    type: 'gauge',
    on: both,
    help: '1 while etcd says something else than what this node sees (supervise), or than where PgBouncer points (proxy)',
  },

  // What PgBouncer does
  pgcm_pointed: {
    type: 'gauge',
    on: proxy,
    labels: ['address'],
    help: '1; the address that PgBouncer was last seen to point at',
  },
  pgcm_reloads_total: {
    type: 'counter',
    on: proxy,
    labels: ['result'],
    help: 'Renderings with RELOAD, ok or failed',
  },
  pgcm_reload_ok: { type: 'gauge', on: proxy, help: '1 if the last one worked' },
  pgcm_reload_timestamp_seconds: { type: 'gauge', on: proxy, help: 'When the last one ended' },
  pgcm_reload_duration_seconds: {
    type: 'gauge',
    on: proxy,
    help: 'How long it took, from the template to a look at where PgBouncer points',
  },
  pgcm_paused: { type: 'gauge', on: both, help: '1 while this daemon holds the clients of its PgBouncer' },
  pgcm_paused_since_timestamp_seconds: {
    type: 'gauge',
    on: both,
    help: 'When the pause began or was last renewed; 0 without one',
  },
  pgcm_paused_until_timestamp_seconds: {
    type: 'gauge',
    on: both,
    help: 'When it ends by itself; 0 without one',
  },

  // What a failover asked
  pgcm_api_calls_total: {
    type: 'counter',
    on: both,
    labels: ['rpc', 'code'],
    help: 'Calls of the API by gRPC code: checkpoint, prepare, pause, proceed, writable, resume, unmigrate are the phases of a failover',
  },
  pgcm_api_call_duration_seconds: {
    type: 'histogram',
    on: both,
    labels: ['rpc'],
    help: 'How long they took',
  },

  // What went wrong
  pgcm_log_events_total: {
    type: 'counter',
    on: both,
    labels: ['level', 'event'],
    help: 'Warnings and errors by event, also those that the log does not repeat',
  },
  pgcm_trouble: { type: 'gauge', on: both, labels: ['event'], help: '1 while this trouble lasts' },

  // What it costs
  process_resident_memory_bytes: { type: 'gauge', on: both, help: 'Resident memory' },
  process_cpu_seconds_total: { type: 'counter', on: both, help: 'CPU time, user and system' },
  process_start_time_seconds: { type: 'gauge', on: both, help: 'When the daemon started' },
  process_open_fds: { type: 'gauge', on: both, help: 'Open files and connections' },
} as const satisfies Record<string, Declared>

export type Metric = keyof typeof table

type LabelsOf<M extends Metric> = (typeof table)[M] extends { labels: readonly (infer L extends string)[] }
  ? Record<L, string>
  : Record<never, never>

/** The labels of a metric, all of them. */
export type Labels<M extends Metric> = LabelsOf<M>

/** One value of one metric, at the moment of asking. */
export type Sample = {
  [M in Metric]: keyof LabelsOf<M> extends never ? readonly [M, number] : readonly [M, number, LabelsOf<M>]
}[Metric]
