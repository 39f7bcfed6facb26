/**
 * Three real PostgreSQL instances on 127.0.0.11-13, driven through the resource agent in the order in which Pacemaker
 * would: the cluster layer alone is played, by the programs of test/stubs/agent/cluster.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sh } from '../../lib/sh.ts'
import { sleep, until } from '../../lib/wait.ts'
import { kill, processesIn } from './processes.ts'
import { AGENT } from './world.ts'

const STUBS = join(dirname(dirname(fileURLToPath(import.meta.url))), 'stubs/agent/cluster')
const SERVERS = '/usr/lib/postgresql'
export const NODES = ['pg01', 'pg02', 'pg03'] as const
export type Node = (typeof NODES)[number]

/** The programs of the newest PostgreSQL server here, and why the rig cannot run if it cannot. */
export function programs(): { bindir: string; missing?: string } {
  const versions = existsSync(SERVERS) ? readdirSync(SERVERS).sort((a, b) => Number(b) - Number(a)) : []
  const bindir = versions
    .map((version) => join(SERVERS, version, 'bin'))
    .find((dir) => existsSync(join(dir, 'initdb')))
  if (process.getuid?.() !== 0) return { bindir: '', missing: 'they need root' }
  return bindir
    ? { bindir }
    : { bindir: '', missing: "they need PostgreSQL's server: apt-get install postgresql" }
}

export interface Outcome {
  code: number
  reason: string
}

export class Rig {
  readonly dir: string
  readonly bindir: string
  readonly port: number

  private constructor(dir: string, bindir: string, port: number) {
    this.dir = dir
    this.bindir = bindir
    this.port = port
  }

  /** Three equal clones, as Ansible leaves them, with further settings and words for initdb. */
  static async make(bindir: string, settings = '', initdb: string[] = []): Promise<Rig> {
    const dir = mkdtempSync(join(tmpdir(), 'pgcm-rig-'))
    chmodSync(dir, 0o755)
    const rig = new Rig(dir, bindir, await freePort())
    mkdirSync(join(dir, 'attrs'))
    for (const node of NODES) {
      mkdirSync(rig.path(node, 'sock'), { recursive: true })
      writeFileSync(rig.path(node, 'postgresql.conf'), rig.configuration(node) + settings)
      await sh(['chown', 'postgres:', rig.path(node), rig.path(node, 'sock')])
    }
    const data = rig.path('pg01', 'data')
    await sh(asPostgres(join(bindir, 'initdb'), '--no-sync', '--auth=trust', ...initdb, '-D', data))
    const hba = 'local all all trust\nhost all,replication all 127.0.0.0/24 trust\n'
    writeFileSync(join(data, 'pg_hba.conf'), hba)
    for (const node of ['pg02', 'pg03'] as const) await sh(['cp', '-a', data, rig.path(node)])
    return rig
  }

  path(node: Node, ...words: string[]): string {
    return join(this.dir, node, ...words)
  }

  private configuration(node: Node): string {
    const data = this.path(node, 'data')
    return `data_directory = '${data}'
hba_file = '${data}/pg_hba.conf'
ident_file = '${data}/pg_ident.conf'
listen_addresses = '${address(node)}'
port = ${this.port}
unix_socket_directories = '${this.path(node, 'sock')}'
wal_retrieve_retry_interval = 100ms
wal_log_hints = on
shared_buffers = 8MB
fsync = off
include_if_exists = '${this.path(node, 'tmp/replication.conf')}'
`
  }

  /** What the agent finds in its environment on a node. */
  environment(node: Node): Record<string, string> {
    const parameters = {
      ...{ pgdata: this.path(node, 'data'), bindir: this.bindir, config: this.path(node, 'postgresql.conf') },
      ...{ pgport: `${this.port}`, socketdir: this.path(node, 'sock'), tmpdir: this.path(node, 'tmp') },
      ...{ repuser: 'postgres', node_list: NODES.join(' ') },
    }
    return {
      PATH: `${STUBS}:${process.env.PATH}`,
      WORLD: this.dir,
      HA_RSCTMP: this.path(node, 'run'),
      OCF_RESOURCE_INSTANCE: 'Postgresql',
      OCF_RESKEY_CRM_meta_on_node: node,
      ...Object.fromEntries(Object.entries(parameters).map(([name, value]) => [`OCF_RESKEY_${name}`, value])),
    }
  }

  /** An action as Pacemaker calls it; `notify TYPE-OPERATION CANDIDATE`; `monitor` recurs, `probe` does not. */
  async agent(node: Node, call: string): Promise<Outcome> {
    const [verb = '', event = '', candidate = '', demoted = ''] = call.split(' ')
    const [type = '', operation = ''] = event.split('-')
    const { code, stderr } = await sh(['/bin/sh', AGENT, verb === 'probe' ? 'monitor' : verb], {
      timeoutMs: 30_000,
      okCodes: Array.from({ length: 256 }, (_, code) => code),
      env: {
        ...this.environment(node),
        OCF_RESKEY_CRM_meta_interval: verb === 'monitor' ? '1000' : '0',
        OCF_RESKEY_CRM_meta_notify_type: type,
        OCF_RESKEY_CRM_meta_notify_operation: operation,
        OCF_RESKEY_CRM_meta_notify_promote_uname: candidate && `${candidate} `,
        OCF_RESKEY_CRM_meta_notify_demote_uname: demoted && `${demoted} `,
      },
    })
    const reason =
      stderr
        .match(/^ocf-exit-reason:.*$/gm)
        ?.at(-1)
        ?.slice('ocf-exit-reason:'.length) ?? ''
    return { code, reason }
  }

  /** The same action on several nodes at once; their codes. */
  async agents(nodes: readonly Node[], call: string): Promise<number[]> {
    return (await Promise.all(nodes.map((node) => this.agent(node, call)))).map(({ code }) => code)
  }

  /** A promotion as a transition has it, seen by `nodes` only; what `promote` said. */
  async elect(candidate: Node, nodes: readonly Node[] = NODES): Promise<Outcome> {
    await this.agents(nodes, `notify pre-promote ${candidate}`)
    const outcome = await this.agent(candidate, 'promote')
    if (outcome.code === 0) await this.agents(nodes, `notify post-promote ${candidate}`)
    return outcome
  }

  /** A planned move: the old primary is demoted first, while the candidate knows already. */
  async move(from: Node, to: Node): Promise<Outcome> {
    await this.agents(NODES, `notify pre-demote ${to} ${from}`)
    const demoted = await this.agent(from, 'demote')
    if (demoted.code !== 0) return demoted
    await this.agents(NODES, `notify post-demote ${to} ${from}`)
    return this.elect(to)
  }

  private psql(node: Node, text: string): string[] {
    const host = ['-h', address(node), '-p', `${this.port}`, '-U', 'postgres', '-d', 'postgres']
    return [join(this.bindir, 'psql'), ...host, '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', text]
  }

  async sql(node: Node, text: string): Promise<string> {
    return (await sh(this.psql(node, text), { timeoutMs: 15_000 })).stdout.trimEnd()
  }

  /** A client that goes on by itself: its output so far, and its exit code once it has one. */
  client(node: Node, text: string): { output: string; code: Promise<number | null> } {
    const [program = '', ...words] = this.psql(node, text)
    const child: ChildProcess = spawn(program, words, { stdio: ['ignore', 'pipe', 'ignore'] })
    const client = { output: '', code: new Promise<number | null>((resolve) => child.on('close', resolve)) }
    child.stdout?.on('data', (chunk) => {
      client.output += chunk
    })
    return client
  }

  attribute(name: string, node: Node): string {
    const file = join(
      this.dir,
      'attrs',
      `${name === 'score' ? 'master-Postgresql' : `Postgresql-${name}`}@${node}`,
    )
    return existsSync(file) ? readFileSync(file, 'utf8').trim() : ''
  }

  /** What people see of each node: its status. Read after a monitor of every node. */
  async statuses(): Promise<string> {
    await this.agents(NODES, 'monitor')
    return NODES.map((node) => this.attribute('status', node)).join(' ')
  }

  async standsWithin(timeoutMs: number, wanted: string): Promise<void> {
    let seen = ''
    await until(`the nodes are ${wanted}`, { timeoutMs, everyMs: 200 }, async () => {
      seen = await this.statuses()
      return seen === wanted
    }).catch((error) => {
      throw new Error(`${error.message}, but ${seen}`)
    })
  }

  async timeline(node: Node): Promise<number> {
    return Number.parseInt(
      await this.sql(node, 'SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)'),
      16,
    )
  }

  /** The node is lost to the cluster: its attributes go with it. */
  lose(node: Node): void {
    for (const name of readdirSync(join(this.dir, 'attrs')))
      if (name.endsWith(`@${node}`)) rmSync(join(this.dir, 'attrs', name))
  }

  /** SIGKILL for all processes of PostgreSQL there, postmaster first; it is over when init has buried that one too. */
  async crash(node: Node): Promise<void> {
    const postmaster = this.postmaster(node)
    for (const pid of [postmaster, ...this.processes(node)]) kill(pid, 'SIGKILL')
    const gone = () => !existsSync(`/proc/${postmaster}`) && this.processes(node).length === 0
    await until(`${node} is dead`, { timeoutMs: 10_000, everyMs: 20 }, gone)
  }

  postmaster(node: Node): number {
    return Number(readFileSync(this.path(node, 'data/postmaster.pid'), 'utf8').split('\n')[0])
  }

  processes(node: Node): number[] {
    return processesIn(join(this.dir, node)).map(({ pid }) => pid)
  }

  /** The power is gone, and comes back: what is in memory only is lost, on the nodes and in the cluster layer. */
  async powerLoss(): Promise<void> {
    for (const node of NODES) await this.crash(node)
    for (const node of NODES) rmSync(this.path(node, 'run'), { recursive: true })
    rmSync(join(this.dir, 'attrs'), { recursive: true })
    mkdirSync(join(this.dir, 'attrs'))
  }

  /** Ends what lives, in order where that is possible in a second, and leaves nothing. Synchronous: for the very end. */
  destroy(): void {
    const alive = () => processesIn(this.dir)
    for (const { pid } of alive()) kill(pid, 'SIGQUIT')
    const pause = new Int32Array(new SharedArrayBuffer(4))
    for (let turn = 0; turn < 20 && alive().length > 0; turn++) Atomics.wait(pause, 0, 0, 50)
    for (const { pid } of alive()) kill(pid, 'SIGKILL')
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 })
  }

  /** Takes the primary away from a standby, by its own configuration and not by a vote. */
  async cutOff(node: Node): Promise<void> {
    const file = this.path(node, 'tmp/replication.conf')
    const text = readFileSync(file, 'utf8').replace(/^primary_conninfo.*$/m, "primary_conninfo = ''")
    writeFileSync(file, text)
    kill(this.postmaster(node), 'SIGHUP')
    await until(`${node} receives nothing`, { timeoutMs: 5000, everyMs: 50 }, async () => {
      await sleep(0)
      return (await this.sql(node, 'SELECT count(*) FROM pg_stat_wal_receiver')) === '0'
    })
  }

  /** What in the data directories does not belong to PostgreSQL. */
  async strangeFiles(): Promise<string[]> {
    const dirs = NODES.map((node) => this.path(node, 'data'))
    const { stdout } = await sh(['find', ...dirs, '!', '(', '-user', 'postgres', '-group', 'postgres', ')'])
    return stdout.split('\n').filter(Boolean)
  }

  /** pg_rewind, as pgcm-rejoin calls it. */
  async rewind(node: Node, primary: Node): Promise<void> {
    await this.sql(primary, 'CHECKPOINT') // before 16 it reads the timeline from the last one
    const source = `host=${address(primary)} port=${this.port} user=postgres dbname=postgres`
    const words = ['--no-sync', '--target-pgdata', this.path(node, 'data'), '--source-server', source]
    const config = [`--config-file=${this.path(node, 'postgresql.conf')}`]
    await sh(asPostgres(join(this.bindir, 'pg_rewind'), ...words, ...config))
  }
}

const address = (node: Node) => `127.0.0.1${node.slice(-1)}`

const asPostgres = (...words: string[]) => [
  ...['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--'],
  ...words,
]

/** A port that is free on the first address; the others have no services of their own either. */
const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer().on('error', reject)
    server.listen(0, address('pg01'), () => {
      const bound = server.address()
      server.close(() => resolve(typeof bound === 'object' && bound ? bound.port : 0))
    })
  })
