/** The machine that pgcm-rejoin runs on: Pacemaker as seen from here, PostgreSQL's files, and what is done to them. */
import { readFile, realpath, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { addressOf, isHost } from './address.ts'
import { type Agent, asPostgres, besides, readAgent } from './agent.ts'
import { connect } from './api.ts'
import * as basebackup from './basebackup.ts'
import { primaryOf } from './cluster.ts'
import type { Config } from './config.ts'
import { type Occupant, occupants } from './dataprocesses.ts'
import { Failed, messageOf } from './errors.ts'
import { numberIn, type Ours, readControl, readOurs, readTheirs, type Theirs } from './evidence.ts'
import { counted, keepLost, type Lost, lostCommands, readLost } from './lost.ts'
import { cleanup, cleanupCommand, readCluster } from './pacemaker.ts'
import * as renewal from './renewal.ts'
import { sh, shown } from './sh.ts'
import { apiTls } from './tls.ts'
import { until } from './wait.ts'
import type { Fork } from './wal.ts'

/** Questions, each of which touches nothing; then deeds, each with the commands that --dry-run prints. */
export interface Local {
  node: string
  agent: Agent
  primary(): Promise<{ name: string; address: string } | null>
  running(): Promise<'primary' | 'streaming' | 'standby' | null>
  occupants(): Promise<Occupant[]>
  leftovers(): Promise<string[]>
  marks(): Promise<{
    lock: number | null
    promise: number | null
    promoted: number
    mark: renewal.Mark | null
  }>
  hasData(): Promise<boolean>
  ours(signal: AbortSignal): Promise<Ours>
  /** The state in pg_control. */
  state(): Promise<string>
  systemId(): Promise<string>
  theirs(address: string): Promise<Theirs>
  lost(fork: Fork, signal: AbortSignal): Promise<Lost>
  /** Why pg_rewind would not do; undefined where it would. */
  beyondRewind(address: string, theirs: Theirs, signal: AbortSignal): Promise<string | undefined>
  noTablespaces(theirs: Theirs): Promise<basebackup.Obstacle | undefined>
  noStart(theirs: Theirs): Promise<basebackup.Obstacle | undefined>
  noRewind(theirs: Theirs): Promise<basebackup.Obstacle | undefined>
  noBackup(theirs: Theirs): Promise<basebackup.Obstacle | undefined>
  /** Is the base backup that an earlier run has made still there? */
  copied(): Promise<boolean>

  lostCommands(fork: Fork): string[]
  /** Writes down what is in the WAL behind the fork; gives a line that says where. */
  keepLost(fork: Fork, primary: string, signal: AbortSignal): Promise<string>
  /** On the primary: pg_rewind up to release 15 believes its pg_control, which lags until a checkpoint is done. */
  checkpoint(primary: string, address: string, signal: AbortSignal): Promise<void>
  rewindCommands(address: string): string[]
  rewind(address: string, bounds: renewal.Bounds): Promise<void>
  settleCommands(): string[]
  settle(bounds: renewal.Bounds): Promise<void>
  backupCommands(address: string): string[]
  backUp(address: string, bounds: renewal.Bounds): Promise<void>
  swapCommands(): string[]
  swap(): Promise<void>
  release(): Promise<void>
  cleanupCommands(): string[]
  cleanUp(): Promise<void>
  /** Waits until it streams; gives a line that says so. */
  streams(timeoutMs: number, signal: AbortSignal): Promise<string>
  discardCommands(): string[]
  discard(): Promise<void>
}

const PACEMAKER = { timeoutMs: 10_000 }

export async function localMachine(config: Config): Promise<Local> {
  const names = { resource: config.pacemakerResource, clone: config.pacemakerClone }
  const node = (await sh(['crm_node', '--name'], PACEMAKER)).stdout.trim()
  const agent = await readAgent(names.resource)
  const cluster = () => readCluster(names, PACEMAKER)
  let ours: Ours | undefined
  let theirs: Theirs | undefined
  let mark: renewal.Mark | null = null

  /** Asks PostgreSQL here; null where it does not run. */
  async function role() {
    const pid = (await readFile(join(agent.pgdata, 'postmaster.pid'), 'utf8').catch(() => '')).split('\n')[0]
    const home = await realpath(`/proc/${pid || '-'}/cwd`).catch(() => '')
    if (home === '' || home !== (await realpath(agent.pgdata).catch(() => agent.pgdata))) return null
    const query = `SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'primary' WHEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN 'streaming' ELSE 'standby' END`
    const words = [
      '--no-psqlrc',
      '-At',
      '-h',
      agent.socketdir,
      '-p',
      agent.pgport,
      '-d',
      'postgres',
      '-c',
      query,
    ]
    try {
      const { stdout } = await sh(asPostgres(agent, 'psql', ...words), { timeoutMs: 5000 })
      return stdout.trim() as 'primary' | 'streaming' | 'standby'
    } catch {
      return 'standby' // it runs and does not answer: starting up, most likely
    }
  }

  return {
    node,
    agent,

    /** One that was started a moment ago is given the time to find its primary. */
    async running() {
      const found = async () => {
        const now = await role()
        return now === 'standby' ? null : { now }
      }
      const settled = await until('it streams', { timeoutMs: 5000, everyMs: 200 }, found).catch(() => null)
      return settled ? settled.now : 'standby'
    },

    async primary() {
      const name = primaryOf(await cluster())?.name
      return name ? { name, address: await addressOf(name) } : null
    },

    occupants: () => occupants(agent),
    leftovers: () => basebackup.leftovers(agent),

    async marks() {
      const { epoch } = await cluster()
      const own = async () => epoch.of[node] ?? (await readControl(agent)).timeline
      const lock = await numberIn(agent.lockFile, own)
      const promise = await numberIn(agent.promiseFile, async () => epoch.promoted)
      mark = await renewal.readMark(agent)
      return { lock, promise, promoted: epoch.promoted, mark }
    },

    hasData: () =>
      stat(join(agent.pgdata, 'PG_VERSION')).then(
        () => true,
        () => false,
      ),
    async ours(signal) {
      ours = await readOurs(agent, signal)
      return ours
    },
    state: async () => (await readControl(agent)).state,
    systemId: async () => (await readControl(agent)).systemId,
    async theirs(address) {
      theirs = await readTheirs(agent, address)
      return theirs
    },
    lost: (fork, signal) => readLost(agent, known(ours), fork, signal),
    beyondRewind: (address, theirs, signal) =>
      renewal.beyondRewind(agent, address, theirs, { timeoutMs: 600_000, signal }),
    noTablespaces: (theirs) => basebackup.noTablespaces(agent, theirs),
    noStart: (theirs) => basebackup.noStart(agent, theirs),
    noRewind: (theirs) => basebackup.noRewind(agent, theirs),
    noBackup: (theirs) => basebackup.noBackup(agent, theirs),
    copied: () => basebackup.copied(agent),

    lostCommands: (fork) => lostCommands(agent, known(ours), fork),
    async keepLost(fork, primary, signal) {
      const lost = await readLost(agent, known(ours), fork, signal)
      const file = await keepLost(agent, fork, lost, `what ${node} had and the primary ${primary} has not`)
      return `${counted(lost.commits)} will be gone, listed in ${file}`
    },

    async checkpoint(primary, address, signal) {
      const byHand = `CHECKPOINT on ${primary}, then run pgcm-rejoin again.`
      const hosted = (endpoint: string) => isHost(endpoint.replace(/:\d+$/, ''), primary, address)
      const endpoint = config.failoverApiEndpoints.find(hosted)
      if (!endpoint) throw new Failed(`failover-api-endpoints does not name ${primary}`, byHand)
      const api = connect(endpoint, apiTls(config))
      try {
        await api.checkpoint({ deadlineMs: 600_000, signal })
      } catch (cause) {
        throw new Failed(messageOf(cause), byHand, { cause })
      } finally {
        api.close()
      }
    },
    rewindCommands: (address) => [
      ...(ours && !ours.control.state.startsWith('shut down')
        ? [`rm -f ${agent.pgdata}/standby.signal`, `${shown(renewal.singleUser(agent))} </dev/null`]
        : []),
      shown(renewal.rewindCommand(agent, address)),
    ],
    rewind: (address, bounds) =>
      (mark?.stage === 'rewinding' ? renewal.rewindAgain : renewal.rewind)(
        agent,
        address,
        known(theirs),
        bounds,
      ),
    settleCommands: () => [shown(renewal.syncCommand(agent))],
    async settle(bounds) {
      await sh(renewal.syncCommand(agent), bounds)
      await renewal.writeMark(agent, 'ready', known(theirs))
    },
    backupCommands: (address) => [shown(basebackup.backupCommand(agent, address))],
    backUp: (address, bounds) => basebackup.backUp(agent, address, known(theirs), bounds),
    swapCommands: () => basebackup.swapCommands(agent),
    swap: () => basebackup.swap(agent, known(theirs)),
    release: () => renewal.release(agent),
    discardCommands: () => [`rm -rf ${besides(agent).outdated}`],
    discard: () => basebackup.discard(agent),

    cleanupCommands: () => [shown(cleanupCommand(names.resource, node))],
    cleanUp: () => cleanup(names.resource, node, { timeoutMs: 30_000 }),

    async streams(timeoutMs, signal) {
      return until(`${node} streams`, { timeoutMs, everyMs: 250, signal }, async () => {
        const view = await cluster()
        const failure = view.failures.find(
          (each) => each.node === node && each.resource.startsWith(names.resource),
        )
        if (failure)
          throw new Failed(
            `${failure.operation} failed on ${node}: ${failure.reason}`,
            'crm_mon and the log of PostgreSQL have more.',
          )
        const own = view.nodes.find(({ name }) => name === node)
        // ASYNC is what one is that still catches up: each node is in synchronous_standby_names.
        const attached = /^STREAMING\|(?!ASYNC)/.test(own?.dataStatus ?? '') && (await role()) === 'streaming'
        return attached ? `${own?.status}, ${own?.dataStatus}` : null
      })
    },
  }
}

/** What diagnose() has read before. */
function known<T>(read: T | undefined): T {
  if (read === undefined) throw new Error('asked for before it was read')
  return read
}
