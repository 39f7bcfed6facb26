/**
 * A world for the resource agent: a directory that holds a data directory, the agent's own files, and programs that
 * answer from files and log what they were called with (test/stubs/agent). PostgreSQL is a shell script there, but a
 * real process that the agent finds, signals and sees gone.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sh } from '../../lib/sh.ts'
import { until } from '../../lib/wait.ts'
import { brief, shortName } from './log.ts'
import { endGroup, processesIn } from './processes.ts'

const test = dirname(dirname(fileURLToPath(import.meta.url)))
/** The agent; another copy of it, to see whether the tests notice. */
export const AGENT = process.env.PGCM_TEST_AGENT ?? join(dirname(test), 'ansible/roles/pacemaker/files/pgsql')
const STUBS = join(test, 'stubs/agent')
const RUN = 'run/pgcm-Postgresql'
/** What the agent may call besides the stubs: POSIX, coreutils and util-linux. */
const TOOLS =
  'awk cat chmod cut date env flock grep mkdir mkfifo mv readlink rm rmdir sed setsid sh sleep sort stat tail timeout touch tr wc'.split(
    ' ',
  )

export interface Given {
  /** The agent's own node; the cluster is pg01, pg02 and pg03. */
  node?: string
  /** What runs: a postmaster, some of its children without it, both, or nothing. Default nothing. */
  processes?: 'postmaster' | 'children' | 'all'
  /** What PostgreSQL answers when asked what it is, one line for each time; the last line stays. */
  state?: string | string[]
  /** Its position when it votes: `timeline:lsn:cut:named`. */
  position?: string
  /** What pg_controldata says: state and location. */
  control?: [string, string]
  /** Files of tmpdir. */
  lock?: number | string
  promise?: number
  pending?: boolean
  /** Files of the run directory: what the last monitor saw, the epoch called, the vote, whom it follows. */
  run?: Record<string, string | number>
  /** Node attributes, `name@node`, `score@node` for the promotion score. */
  attributes?: Record<string, string>
  /** The epoch in which each node says that it was promoted. */
  promoted?: Record<string, number>
  /** Timelines that have a history file, with parent and place of the fork or without, and placeholders. */
  history?: (number | [timeline: number, parent: number, fork: string])[]
  placeholders?: number[]
  /** Files $WORLD/broken/NAME, by which the stubs fail. */
  broken?: Record<string, string>
  /** Instance parameters. */
  parameters?: Record<string, string>
  /** Anything else, once the processes run. */
  twist?: (world: World) => void
}

export interface Outcome {
  code: number
  /** The last exit reason: the one that Pacemaker shows. */
  reason: string
  stderr: string
  /** Processes of PostgreSQL as it exits, while what it has left in the background may still work. */
  alive: number[]
}

const files = (dir: string) => (existsSync(dir) ? readdirSync(dir) : [])

export class World {
  readonly dir: string
  readonly given: Given
  readonly node: string
  private readonly children: ChildProcess[] = []

  private constructor(given: Given, dir: string) {
    this.given = given
    this.dir = dir
    this.node = given.node ?? 'pg01'
  }

  /** Makes the world and starts its processes. */
  static async make(given: Given, parent = tmpdir()): Promise<World> {
    const world = new World(given, mkdtempSync(join(parent, 'world-')))
    world.lay()
    await world.populate()
    return world
  }

  path(...words: string[]): string {
    return join(this.dir, ...words)
  }

  write(file: string, text: string | number): void {
    const path = this.path(file)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, `${text}\n`)
  }

  /** A file's text without its last line feed, '' if there is none. */
  read(file: string): string {
    const path = this.path(file)
    return existsSync(path) ? readFileSync(path, 'utf8').trimEnd() : ''
  }

  has(file: string): boolean {
    return existsSync(this.path(file))
  }

  private lay(): void {
    const { given } = this
    for (const dir of ['data/pg_wal', 'tmp', 'run/pgcm-Postgresql', 'attrs', 'broken', 'sock'])
      mkdirSync(this.path(dir), { recursive: true })
    cpSync(join(STUBS, 'bindir'), this.path('bindir'), { recursive: true })
    this.write('log', '')
    this.write('data/PG_VERSION', 17)
    this.write('postgresql.conf', `include_if_exists = '${this.path('tmp/replication.conf')}'`)
    const states = [given.state ?? 'standby alone'].flat()
    this.write('state', states.join('\n'))
    if (!states.at(-1)?.startsWith('primary')) this.write('data/standby.signal', '')
    this.write('position', given.position ?? '10:1000:t:t')
    this.write('control', (given.control ?? ['in production', '0/3000028']).join('\n'))
    if (given.lock !== undefined) this.write('tmp/PGSQL.lock', given.lock)
    if (given.promise !== undefined) this.write('tmp/promise', given.promise)
    if (given.pending) this.write('tmp/rejoin.pending', '')
    for (const [name, value] of Object.entries(given.run ?? {}))
      this.write(`run/pgcm-Postgresql/${name}`, value)
    for (const [name, value] of Object.entries(given.attributes ?? {})) this.write(attributeFile(name), value)
    for (const [name, value] of Object.entries(given.promoted ?? {}))
      this.write(attributeFile(`epoch@${name}`), value)
    for (const entry of given.history ?? []) {
      const [number, parent, fork] = typeof entry === 'number' ? [entry, 1, '0/100'] : entry
      this.write(historyFile(number), `${parent}\t${fork}\tno recovery target specified`)
    }
    for (const number of given.placeholders ?? []) this.write(historyFile(number), '# pgcm placeholder')
    for (const [name, text] of Object.entries(given.broken ?? {})) this.write(`broken/${name}`, text)
  }

  private async populate(): Promise<void> {
    const { processes } = this.given
    if (processes === 'postmaster' || processes === 'all') {
      const postmaster = await this.spawn(['-D', this.path('data')])
      if (this.given.run?.promoting === 'postmaster') this.write('run/pgcm-Postgresql/promoting', postmaster)
    }
    if (processes === 'children' || processes === 'all') await this.spawn(['child'])
    const { dev, ino } = statSync(this.path('data'))
    if (processes) this.write('run/pgcm-Postgresql/inode', `${dev}:${ino}`)
    this.write('log', '')
    this.given.twist?.(this)
  }

  /** Starts a process named postgres in the data directory; resolves to its pid once it takes signals. */
  async spawn(
    words: string[],
    program = this.path('bindir/postgres'),
    cwd = this.path('data'),
  ): Promise<number> {
    const child = spawn(program, words, {
      cwd,
      env: { ...process.env, WORLD: this.dir },
      stdio: 'ignore',
      detached: true,
    })
    this.children.push(child)
    await until('the process is ready', { timeoutMs: 10_000, everyMs: 5 }, () =>
      existsSync(this.path(`ready.${child.pid}`)),
    )
    return child.pid as number
  }

  get postmaster(): number {
    return Number(this.read('data/postmaster.pid').split('\n')[0])
  }

  /** Runs the agent as Pacemaker does. `monitor` recurs, `probe` does not; a notification is `notify TYPE-OPERATION CANDIDATE DEMOTED`. */
  async run(call: string, shell = 'dash', everyTool = false): Promise<Outcome> {
    const [verb = '', event = '', candidate = '', demoted = ''] = call.split(' ')
    const [type = '', operation = ''] = event.split('-')
    const child = spawn(`/bin/${shell}`, [AGENT, verb === 'probe' ? 'monitor' : verb], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 40_000,
      env: {
        PATH: `${join(STUBS, 'system')}:${join(STUBS, 'cluster')}:${everyTool ? this.tools() : process.env.PATH}`,
        WORLD: this.dir,
        HA_RSCTMP: this.path('run'),
        PGCM_ALERT_POKE: this.path('poke'),
        OCF_RESOURCE_INSTANCE: 'Postgresql:0',
        OCF_RESKEY_CRM_meta_on_node: this.given.broken?.corosync === undefined ? this.node : '',
        OCF_RESKEY_CRM_meta_interval: verb === 'monitor' ? '1000' : '0',
        OCF_RESKEY_CRM_meta_notify_type: type,
        OCF_RESKEY_CRM_meta_notify_operation: operation,
        OCF_RESKEY_CRM_meta_notify_promote_uname: candidate && `${candidate} `,
        OCF_RESKEY_CRM_meta_notify_demote_uname: demoted && `${demoted} `,
        ...this.parameters(),
      },
    })
    let [stderr, alive]: [string, number[]] = ['', []]
    child.stdout.resume()
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text
    })
    child.once('exit', () => {
      alive = this.alive
    })
    const [code] = await once(child, 'close')
    // What it has left to be done behind its back is done under its lock.
    if (this.has(`${RUN}/lock`)) await sh(['flock', this.path(RUN, 'lock'), 'true'], { timeoutMs: 10_000 })
    const reason =
      stderr
        .match(/^ocf-exit-reason:.*$/gm)
        ?.at(-1)
        ?.slice('ocf-exit-reason:'.length) ?? ''
    return { code, reason, stderr, alive }
  }

  private parameters(): Record<string, string> {
    const parameters = {
      pgdata: this.path('data'),
      bindir: this.path('bindir'),
      config: this.path('postgresql.conf'),
      pguser: userInfo().username,
      socketdir: this.path('sock'),
      tmpdir: this.path('tmp'),
      node_list: 'pg01 pg02 pg03',
      vote_timeout: '1',
      ...this.given.parameters,
    }
    const pairs = Object.entries(parameters).map(([name, value]) => [`OCF_RESKEY_${name}`, value])
    return Object.fromEntries(pairs)
  }

  /** A PATH on which every program is logged, and nothing is found that the agent is not known to need. */
  private tools(): string {
    for (const dir of ['tools', 'real']) mkdirSync(this.path(dir), { recursive: true })
    for (const tool of TOOLS) {
      const real = ['/usr/bin', '/bin'].map((dir) => join(dir, tool)).find(existsSync)
      if (real === undefined || this.has(`real/${tool}`)) continue
      symlinkSync(join(STUBS, 'tool'), this.path('tools', tool))
      symlinkSync(real, this.path('real', tool))
    }
    return this.path('tools')
  }

  /** Every command that was run, as it was called. */
  get log(): string[] {
    return this.read('log').split('\n').filter(Boolean)
  }

  /** The commands and signals that change something, in short words and in their order. */
  get changes(): string[] {
    return this.log.flatMap(brief)
  }

  get attributes(): Record<string, string> {
    return Object.fromEntries(
      files(this.path('attrs')).map((name) => [shortName(name), this.read(`attrs/${name}`)]),
    )
  }

  /** History files above timeline 1: `9` for a real one, `8?` for a placeholder. */
  get timelines(): string[] {
    return files(this.path('data/pg_wal')).map((name) => {
      const mark = this.read(`data/pg_wal/${name}`).startsWith('# pgcm') ? '?' : ''
      return `${Number.parseInt(name, 16)}${mark}`
    })
  }

  move(from: string, to: string): void {
    renameSync(this.path(from), this.path(to))
  }

  /** Processes of this PostgreSQL that live, wherever its data directory went. */
  get alive(): number[] {
    return processesIn(this.dir)
      .filter(({ comm, cwd }) => comm === 'postgres' && cwd !== this.path('other'))
      .map(({ pid }) => pid)
  }

  /** Ends what still runs and removes the directory. */
  destroy(): void {
    for (const pid of [...this.children.map((child) => child.pid), this.postmaster]) endGroup(pid)
    const gone = `${this.dir}.gone` // for what the agent has left in the background, which still writes there
    renameSync(this.dir, gone)
    rmSync(gone, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 })
  }
}

export const historyFile = (timeline: number) =>
  `data/pg_wal/${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`

const attributeFile = (name: string) =>
  `attrs/${name.startsWith('score@') ? name.replace('score', 'master-Postgresql') : `Postgresql-${name}`}`
