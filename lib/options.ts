/** Every script, and what `--help` says of it. `rest` names the words that may follow the options; `verbs` explains the first of them. */
export const scripts = {
  supervise: {
    summary: 'Tells etcd what Pacemaker decided, and serves the API of this Postgres node.',
    rest: '',
  },
  proxy: { summary: "Points this machine's PgBouncer at the primary that etcd names.", rest: '' },
  failover: { summary: 'Moves the primary to a standby without an error for any client.', rest: '' },
  rejoin: { summary: 'Brings a stopped former primary back as a standby.', rest: '' },
  status: { summary: 'Shows who is what, how far behind, and where each PgBouncer points.', rest: '' },
  playground: {
    summary: 'Boots the whole cluster on this machine, and breaks it on request.',
    rest: 'VERB [WORD...]',
    verbs: {
      up: 'make it, or go on where it stands; needs no answer',
      down: 'shut the machines down; up brings them back',
      destroy: 'remove it, and everything it left here but the images',
      status: 'what runs, and what is cut off',
      'ssh NODE [COMMAND]': 'go there, or run a command there',
      'kill NODE': 'pull the plug',
      'start NODE': 'put it back in',
      'partition NODE': 'cut it off from the others, but not from this machine',
      'heal [NODE]': 'end its cuts, or all of them',
    },
  },
  lock: {
    summary: 'Runs a command while no failover can happen: a deploy, a backup.',
    rest: '-- COMMAND [WORD...]',
  },
  pgcm: {
    summary: 'Runs pgcm-VERB: failover, rejoin, status, ...; show-config prints the settings.',
    rest: 'VERB [WORD...]',
  },
} as const

export type ScriptName = keyof typeof scripts

interface Common {
  /** Flag `--name`, environment `PGCM_NAME`, TOML key `name`, property `name` in camel case. */
  name: string
  help: string
  scripts: readonly ScriptName[]
  alias?: string
  /** About one run, not about the cluster: not in the TOML file and not in `show-config`. */
  oneShot?: true
  secret?: true
}

/** One option. Defaults of durations are written as on the command line. */
export type Option = Common &
  (
    | { type: 'string'; default: string }
    | { type: 'int'; default: number; min?: number; max?: number }
    | { type: 'duration'; default: string; min?: string }
    | { type: 'list'; default: readonly string[] }
    | { type: 'bool'; default: boolean }
    | { type: 'enum'; default: string; choices: readonly string[] }
  )

const all = ['supervise', 'proxy', 'failover', 'rejoin', 'status', 'lock', 'playground', 'pgcm'] as const
const cluster = ['supervise', 'proxy', 'failover', 'rejoin', 'status', 'lock'] as const
const daemons = ['supervise', 'proxy'] as const

/** The longest pause: a daemon that is stopped waits for its end, and systemd kills it at TimeoutStopSec. */
export const LONGEST_EXPIRY_MS = 80_000
/** What any other duration in a call may be. */
export const LONGEST_CALL_MS = 3_600_000
/** How old transactions may be asked for. */
export const OLDEST_MS = 30 * 24 * 3_600_000

/** Each option once: this table feeds the parser, the types, the environment, the TOML keys, `--help` and `show-config`. */
export const options = [
  {
    name: 'help',
    alias: 'h',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: all,
    help: 'print this and exit',
  },
  {
    name: 'version',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: all,
    help: 'print the version and exit',
  },
  {
    name: 'config-file',
    type: 'string',
    default: '/etc/pgcm/pgcm.toml',
    oneShot: true,
    scripts: [...cluster, 'pgcm'],
    help: 'TOML file with any of these options as flat keys; the default one may be absent',
  },
  {
    name: 'log-level',
    type: 'enum',
    choices: ['debug', 'info', 'warn', 'error'],
    default: 'info',
    scripts: all,
    help: 'least important event that is logged',
  },

  // etcd
  {
    name: 'etcd-endpoints',
    type: 'list',
    default: ['https://127.0.0.1:2379'],
    scripts: cluster,
    help: 'members of etcd, https:// or http:// URLs',
  },
  {
    name: 'etcd-namespace',
    type: 'string',
    default: '/postgres',
    scripts: cluster,
    help: 'prefix of every key; one per cluster',
  },
  {
    name: 'etcd-postgres-master-key',
    type: 'string',
    default: '/master',
    scripts: cluster,
    help: "key below the namespace that holds the primary's address",
  },
  {
    name: 'etcd-timeout',
    type: 'duration',
    default: '1.5s',
    min: '50ms',
    scripts: cluster,
    help: 'one attempt of one request; there are up to four, on other members',
  },
  {
    name: 'etcd-keep-alive-time',
    type: 'duration',
    default: '10s',
    min: '5s',
    scripts: cluster,
    help: 'how long a quiet connection is trusted before it is pinged; members object to less than 5s',
  },
  {
    name: 'etcd-keep-alive-timeout',
    type: 'duration',
    default: '2s',
    min: '50ms',
    scripts: cluster,
    help: 'how long the answer to such a ping may take',
  },
  {
    name: 'etcd-poll-interval',
    type: 'duration',
    default: '1s',
    min: '1s',
    scripts: daemons,
    help: 'how often the keys are read although the watch said nothing; a third as often while its member answers',
  },
  {
    name: 'etcd-retry-interval',
    type: 'duration',
    default: '1s',
    min: '100ms',
    scripts: daemons,
    help: 'pause before a failed request is tried again',
  },
  {
    name: 'etcd-ca-file',
    type: 'string',
    default: '',
    scripts: cluster,
    help: 'CA of the members; empty: tls-ca-file',
  },
  {
    name: 'etcd-cert-file',
    type: 'string',
    default: '',
    scripts: cluster,
    help: 'our certificate for etcd; empty: tls-cert-file',
  },
  {
    name: 'etcd-key-file',
    type: 'string',
    default: '',
    scripts: cluster,
    help: 'its key; empty: tls-key-file',
  },

  // API
  {
    name: 'bind-address',
    type: 'string',
    default: ':8080',
    scripts: daemons,
    help: 'where the API listens, [host]:port',
  },
  {
    name: 'api',
    type: 'bool',
    default: false,
    scripts: ['proxy'],
    help: 'serve the PgBouncer half of the API; for app nodes, where no pgcm-supervise runs',
  },
  {
    name: 'api-address',
    type: 'string',
    default: '',
    scripts: ['proxy'],
    help: "host:port under which others reach this API; empty: this host's name and the port of bind-address",
  },
  {
    name: 'api-allowed-names',
    type: 'list',
    default: [],
    scripts: daemons,
    help: "names (CN) of the client certificates that may call; empty: only this machine's own",
  },
  {
    name: 'insecure',
    type: 'bool',
    default: false,
    scripts: cluster,
    help: 'API without TLS: whoever reaches the port can pause the database',
  },
  {
    name: 'tls-ca-file',
    type: 'string',
    default: '/etc/pgcm/tls/ca.crt',
    scripts: cluster,
    help: 'CA of the API, both ways',
  },
  {
    name: 'tls-cert-file',
    type: 'string',
    default: '/etc/pgcm/tls/node.crt',
    scripts: cluster,
    help: 'our certificate for the API',
  },
  {
    name: 'tls-key-file',
    type: 'string',
    default: '/etc/pgcm/tls/node.key',
    scripts: cluster,
    help: 'its key',
  },
  {
    name: 'state-dir',
    type: 'string',
    default: '',
    scripts: daemons,
    help: "where a pause's expiry is kept; empty: $STATE_DIRECTORY of systemd, else /var/lib/pgcm/<script>",
  },

  // Metrics. Both daemons of a Postgres node read one file, so each has an option of its own.
  {
    name: 'supervise-metrics-address',
    type: 'string',
    default: '127.0.0.1:7432',
    scripts: ['supervise'],
    help: 'where Prometheus reads pgcm-supervise, [host]:port; empty, in the file or the environment: nowhere',
  },
  {
    name: 'proxy-metrics-address',
    type: 'string',
    default: '127.0.0.1:7433',
    scripts: ['proxy'],
    help: 'where Prometheus reads pgcm-proxy, [host]:port; empty, in the file or the environment: nowhere',
  },

  // Pacemaker
  {
    name: 'pacemaker-resource',
    type: 'string',
    default: 'Postgresql',
    scripts: ['supervise', 'failover', 'rejoin', 'status'],
    help: 'the primitive that is PostgreSQL',
  },
  {
    name: 'pacemaker-clone',
    type: 'string',
    default: 'msPostgresql',
    scripts: ['supervise', 'failover', 'rejoin', 'status'],
    help: 'the promotable clone around it',
  },
  {
    name: 'pacemaker-poll-interval',
    type: 'duration',
    default: '1s',
    min: '1s',
    scripts: ['supervise'],
    help: 'how often Pacemaker is asked although its alerts said nothing; each 10s while they surely arrive',
  },
  {
    name: 'pacemaker-get-timeout',
    type: 'duration',
    default: '2s',
    min: '50ms',
    scripts: ['supervise'],
    help: 'one question to Pacemaker',
  },

  // PostgreSQL
  {
    name: 'postgres-socket-dir',
    type: 'string',
    default: '/var/run/postgresql',
    scripts: ['supervise', 'rejoin'],
    help: "directory of PostgreSQL's unix socket, or a host",
  },
  {
    name: 'postgres-port',
    type: 'int',
    default: 5432,
    min: 1,
    max: 65535,
    scripts: daemons,
    help: "PostgreSQL's port",
  },
  {
    name: 'postgres-user',
    type: 'string',
    default: 'pgcm',
    scripts: ['supervise'],
    help: 'role with pg_monitor, pg_checkpoint and pg_signal_backend',
  },
  {
    name: 'postgres-database',
    type: 'string',
    default: 'postgres',
    scripts: ['supervise'],
    help: 'database to connect to',
  },
  {
    name: 'postgres-timeout',
    type: 'duration',
    default: '2s',
    min: '50ms',
    scripts: ['supervise'],
    help: 'one connection or question to PostgreSQL; a CHECKPOINT has the deadline of its caller',
  },

  {
    name: 'standby-max-lag',
    type: 'duration',
    default: '10s',
    scripts: ['supervise'],
    help: 'a standby whose replay is further behind is not offered for reading; 0 offers it however late it is',
  },

  // PgBouncer
  {
    name: 'pgbouncer-socket-dir',
    type: 'string',
    default: '/var/run/postgresql',
    scripts: daemons,
    help: "directory of PgBouncer's unix socket, or a host",
  },
  {
    name: 'pgbouncer-port',
    type: 'int',
    default: 6432,
    min: 1,
    max: 65535,
    scripts: daemons,
    help: "PgBouncer's port",
  },
  { name: 'pgbouncer-user', type: 'string', default: 'pgcm', scripts: daemons, help: 'admin user' },
  {
    name: 'pgbouncer-password',
    type: 'string',
    default: '',
    secret: true,
    scripts: daemons,
    help: 'its password; better in the environment or the file than on a command line',
  },
  {
    name: 'pgbouncer-database',
    type: 'string',
    default: 'pgbouncer',
    scripts: daemons,
    help: 'admin database',
  },
  {
    name: 'pgbouncer-timeout',
    type: 'duration',
    default: '2s',
    min: '50ms',
    scripts: daemons,
    help: 'one command on the admin console (a PAUSE has a deadline of its own)',
  },
  {
    name: 'pgbouncer-databases',
    type: 'list',
    default: ['app'],
    scripts: daemons,
    help: 'databases that must point at the primary',
  },
  {
    name: 'pgbouncer-config-file',
    type: 'string',
    default: '/etc/pgbouncer/pgbouncer.ini',
    scripts: ['proxy'],
    help: 'the file pgcm-proxy writes',
  },
  {
    name: 'pgbouncer-config-template-file',
    type: 'string',
    default: '/etc/pgcm/pgbouncer.ini.ejs',
    scripts: ['proxy'],
    help: 'the EJS template it is made from; it is code, so only root may write it',
  },
  {
    name: 'pgbouncer-retry-interval',
    type: 'duration',
    default: '1s',
    min: '100ms',
    scripts: ['proxy'],
    help: 'pause before a failed rendering or RELOAD is tried again',
  },
  {
    name: 'pgbouncer-listen-address',
    type: 'string',
    default: '*',
    scripts: ['proxy'],
    help: 'listen_addr in the template',
  },
  {
    name: 'pgbouncer-auth-type',
    type: 'string',
    default: 'scram-sha-256',
    scripts: ['proxy'],
    help: 'auth_type in the template',
  },
  {
    name: 'pgbouncer-auth-file',
    type: 'string',
    default: '/etc/pgbouncer/userlist.txt',
    scripts: ['proxy'],
    help: 'auth_file in the template',
  },
  {
    name: 'pgbouncer-pool-size',
    type: 'int',
    default: 20,
    min: 1,
    max: 10000,
    scripts: ['proxy'],
    help: 'default_pool_size in the template',
  },
  {
    name: 'pgbouncer-max-clients',
    type: 'int',
    default: 1000,
    min: 1,
    max: 100000,
    scripts: ['proxy'],
    help: 'max_client_conn in the template',
  },

  // failover and its kin
  {
    name: 'failover-api-endpoints',
    type: 'list',
    default: ['pg01:8080', 'pg02:8080', 'pg03:8080'],
    scripts: ['failover', 'rejoin', 'status'],
    help: 'API of every Postgres node; those of app nodes are found in etcd',
  },
  {
    name: 'health-check-timeout',
    type: 'duration',
    default: '2s',
    scripts: ['failover', 'rejoin', 'status'],
    help: 'how long a machine may take to say how it is; all are asked at once. Who is silent for longer counts as not answering. Bounds nothing of the failover that follows',
  },
  {
    name: 'lock-timeout',
    type: 'duration',
    default: '5s',
    scripts: ['failover', 'lock'],
    help: 'how long to wait for the lock in etcd if somebody has it. Does not bound how long it is held, nor giving it back. A lock whose holder was killed on this machine is taken over at once',
  },
  {
    name: 'pause-timeout',
    type: 'duration',
    default: '5s',
    scripts: ['failover'],
    help: 'how long a PgBouncer may wait until its open transactions have ended; then everything is undone and those transactions are listed. Clients wait meanwhile. Does not bound how long they are held afterwards, for the move: pause-expiry and max-pause do',
  },
  {
    name: 'pause-expiry',
    type: 'duration',
    default: '10s',
    min: '1s',
    scripts: ['failover'],
    help: 'a PgBouncer resumes by itself this long after its pause, whatever became of this command; bounds the whole of pausing and moving, so the new primary has to be there by then. Does not bound what comes before the pause or after the resume. Must be below query_wait_timeout of every PgBouncer, and is 80s at most',
  },
  {
    name: 'resume-timeout',
    type: 'duration',
    default: '5s',
    scripts: ['failover'],
    help: 'how long resuming is tried again where it fails; all PgBouncers in parallel. Does not bound the wait until each points at the new primary, which comes first: pause-expiry does',
  },
  {
    name: 'pacemaker-timeout',
    type: 'duration',
    default: '20s',
    scripts: ['failover'],
    help: 'how long Pacemaker may take to move the promoted role until the new primary takes writes (never longer than three quarters of pause-expiry), and to remove the constraint. Does not stop a move that is under way: when it is over, whoever is primary gets the clients',
  },
  {
    name: 'dry-run',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['failover', 'rejoin'],
    help: 'check everything, print what would be done, touch nothing',
  },
  {
    name: 'yes',
    alias: 'y',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['failover', 'rejoin', 'playground'],
    help: 'do not ask',
  },
  {
    name: 'json',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['failover', 'rejoin', 'status', 'playground'],
    help: 'print JSON',
  },
  {
    name: 'max-pause',
    type: 'duration',
    default: '0',
    scripts: ['failover'],
    help: 'give the move up once clients have been held this long, counted from the first pause; 0: at three quarters of pause-expiry. Settling who is primary then, and letting clients go there, comes on top',
  },
  {
    name: 'max-lag',
    type: 'int',
    default: 16,
    min: 0,
    max: 1_000_000,
    scripts: ['failover'],
    help: 'MiB of WAL that the target may be behind, received or replayed',
  },
  {
    name: 'to',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['failover'],
    help: 'the standby that becomes primary; empty: the synchronous one',
  },
  {
    name: 'check',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['failover'],
    help: 'only look whether a failover would be refused: exit 0 or 2, nothing is touched',
  },
  {
    name: 'drain',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['failover'],
    help: 'what becomes of long transactions before clients are held. Empty: nothing, and where one lasts longer than pause-timeout the failover is called off. wait: they are waited for until none is older than 1s. terminate:AGE, such as terminate:5m: those older than that are listed and asked about, and exactly those are ended; their clients get an error',
  },
  {
    name: 'drain-timeout',
    type: 'duration',
    default: '10m',
    min: '1s',
    scripts: ['failover'],
    help: 'how long --drain may wait; then nothing was touched and what is still open is listed. Clients are not held meanwhile',
  },
  {
    name: 'rejoin',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['failover'],
    help: 'at the end bring the old primary back as a standby, where its data is clean',
  },
  {
    name: 'history',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['status'],
    help: 'show the failovers of the past instead',
  },
  {
    name: 'simulate',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['status'],
    help: "try every single and double loss of a machine or of a resource's instance with Pacemaker's crm_simulate, and show those after which nobody is primary though a quorum is left: exit 0 if there is none, else 1. Nothing is touched. On a Postgres node, or with --cib-file. It assumes that fencing and every other action succeed, and that any standby that runs may be promoted: the agent sets the scores anew once the primary is gone, and then the votes decide. Takes 2m at most",
  },
  {
    name: 'cib-file',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['status'],
    help: "simulate: on what 'cibadmin --query' has printed to this file; empty: on the cluster of this machine",
  },
  {
    name: 'rejoin-timeout',
    type: 'duration',
    default: '1m',
    min: '1s',
    scripts: ['rejoin', 'failover'],
    help: 'how long the standby may take until it streams, once Pacemaker may start it; clients do not wait for that. pgcm-failover --rejoin gives it up after this long, but does not stop it',
  },
  {
    name: 'if-clean',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['rejoin'],
    help: 'refuse where the data has diverged and a cure would throw something away',
  },
  {
    name: 'rejoin-socket',
    type: 'string',
    default: '/run/pgcm-rejoin.sock',
    scripts: ['supervise'],
    help: 'where systemd listens to start pgcm-rejoin as root, for pgcm-failover --rejoin',
  },
  {
    name: 'rewind-timeout',
    type: 'duration',
    default: '1h',
    min: '1s',
    scripts: ['rejoin'],
    help: 'how long pg_rewind, or the base backup in its stead, may take',
  },

  // playground
  {
    name: 'name',
    type: 'string',
    default: 'pgcm',
    oneShot: true,
    scripts: ['playground'],
    help: 'which playground; several can live side by side',
  },
  {
    name: 'release',
    type: 'enum',
    choices: ['trixie', 'bookworm'],
    default: 'trixie',
    oneShot: true,
    scripts: ['playground'],
    help: 'Debian release of its machines',
  },
  {
    name: 'app',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['playground'],
    help: 'with the app node app01',
  },
  {
    name: 'subnet',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['playground'],
    help: 'its /24, such as 172.28.40.0/24; empty: the first free one',
  },
  {
    name: 'bare',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['playground'],
    help: 'up: boot the machines, run no playbook',
  },
  {
    name: 'cache',
    type: 'bool',
    default: false,
    oneShot: true,
    scripts: ['playground'],
    help: 'destroy: remove the cached images as well',
  },
  {
    name: 'from',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['playground'],
    help: 'partition: from this machine alone; empty: from all the others',
  },
  {
    name: 'only',
    type: 'string',
    default: '',
    oneShot: true,
    scripts: ['playground'],
    help: 'partition: on these ports alone, such as 5405/udp,2379/tcp',
  },
] as const satisfies readonly Option[]

type Row = (typeof options)[number]
type Camel<S extends string> = S extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : S
type Value<R extends Row> = R extends { type: 'int' | 'duration' }
  ? number
  : R extends { type: 'list' }
    ? string[]
    : R extends { type: 'bool' }
      ? boolean
      : R extends { type: 'enum'; choices: readonly (infer C)[] }
        ? C
        : string

/** All options by their camel-case names; durations are milliseconds. */
export type Config = { [R in Row as Camel<R['name']>]: Value<R> }
