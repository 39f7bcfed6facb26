/** The machine that pgcm-rejoin runs on: Pacemaker as seen from here, PostgreSQL's files, and what is done to them. */
import { readFile, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { type Agent, asPostgres, readAgent } from './agent.ts'
import { connect } from './api.ts'
import { primaryOf } from './cluster.ts'
import type { Config } from './config.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { numberIn, type Ours, readOurs, readTheirs } from './evidence.ts'
import { addressOf, cleanup, cleanupCommand, readCluster } from './pacemaker.ts'
import * as renewal from './renewal.ts'
import { CommandFailed, sh } from './sh.ts'
import { apiTls } from './tls.ts'
import { until } from './wait.ts'
import { type Fork, type Histories, parseControl } from './wal.ts'

interface Bounds {
  timeoutMs: number
  signal: AbortSignal
}

export interface Local {
  node: string
  agent: Agent
  primary(): Promise<{ name: string; address: string } | null>
  running(): Promise<'primary' | 'streaming' | 'standby' | null>
  marks(): Promise<{
    lock: number | null
    promise: number | null
    promoted: number
    stage: renewal.Stage | null
  }>
  ours(signal: AbortSignal): Promise<Ours>
  /** The state in pg_control. */
  state(): Promise<string>
  theirs(address: string): Promise<Histories['theirs']>
  /** Why pg_rewind would not do; undefined where it would. */
  beyondRewind(address: string, signal: AbortSignal): Promise<string | undefined>
  noBackup(): Promise<string | undefined>
  keepLost(fork: Fork): Promise<string>
  /** On the primary: pg_rewind up to release 15 believes its pg_control, which lags until a checkpoint is done. */
  checkpoint(primary: string, signal: AbortSignal): Promise<void>
  rewindCommands(address: string): string[]
  rewind(address: string, bounds: Bounds): Promise<void>
  backupCommands(address: string): string[]
  backUp(address: string, bounds: Bounds): Promise<void>
  swap(): Promise<void>
  release(): Promise<void>
  cleanupCommands(): string[]
  cleanUp(): Promise<void>
  /** Waits until it streams; gives a line that says so. */
  streams(timeoutMs: number, signal: AbortSignal): Promise<string>
  discard(): Promise<void>
}

const PACEMAKER = { timeoutMs: 10_000 }

export async function localMachine(config: Config): Promise<Local> {
  const names = { resource: config.pacemakerResource, clone: config.pacemakerClone }
  const node = (await sh(['crm_node', '--name'], PACEMAKER)).stdout.trim()
  const agent = await readAgent(names.resource)
  const cluster = () => readCluster(names, PACEMAKER)
  let ours: Ours | undefined

  /** Asks PostgreSQL here; null where it does not run. */
  async function running() {
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
    running,

    async primary() {
      const name = primaryOf(await cluster())?.name
      return name ? { name, address: await addressOf(name) } : null
    },

    async marks() {
      const { epoch } = await cluster()
      const [lock, promise] = [await numberIn(agent.lockFile), await numberIn(agent.promiseFile)]
      return { lock, promise, promoted: epoch.promoted, stage: await renewal.readStage(agent) }
    },

    async ours(signal) {
      ours = await readOurs(agent, signal)
      return ours
    },
    async state() {
      const { stdout } = await sh(asPostgres(agent, 'pg_controldata', agent.pgdata), PACEMAKER)
      return parseControl(stdout).state
    },
    theirs: (address) => readTheirs(agent, address),

    async beyondRewind(address, signal) {
      try {
        await sh(renewal.rewindCommand(agent, address, '--dry-run'), { timeoutMs: 600_000, signal })
        return undefined
      } catch (error) {
        if (error instanceof CommandFailed && error.code !== null) return messageOf(error)
        throw error
      }
    },
    noBackup: () => renewal.noBackup(agent),
    keepLost: (fork) => renewal.keepLost(agent, ours?.timeline ?? fork.timeline, fork),

    async checkpoint(primary, signal) {
      const endpoint = config.failoverApiEndpoints.find((each) => each.startsWith(`${primary}:`))
      if (!endpoint) throw new Refused(`failover-api-endpoints does not name ${primary}`)
      const api = connect(endpoint, apiTls(config))
      try {
        await api.checkpoint({ deadlineMs: 600_000, signal })
      } finally {
        api.close()
      }
    },
    rewindCommands: (address) => [
      ...(crashed(ours) ? [renewal.singleUser(agent).join(' ')] : []),
      renewal.rewindCommand(agent, address).join(' '),
    ],
    rewind: (address, bounds) => renewal.rewind(agent, address, crashed(ours), bounds),
    backupCommands: (address) => [renewal.backupCommand(agent, address).join(' ')],
    backUp: (address, bounds) => renewal.backUp(agent, address, bounds),
    swap: () => renewal.swap(agent),
    release: () => renewal.release(agent),
    discard: () => renewal.discard(agent),

    cleanupCommands: () => [cleanupCommand(names.resource, node).join(' ')],
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
        const attached =
          /^STREAMING\|(?!ASYNC)/.test(own?.dataStatus ?? '') && (await running()) === 'streaming'
        return attached ? `${own?.status}, ${own?.dataStatus}` : null
      })
    },
  }
}

const crashed = (ours: Ours | undefined): boolean =>
  ours !== undefined && !ours.control.state.startsWith('shut down')
