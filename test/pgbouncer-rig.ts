/** A real PgBouncer and two real PostgreSQL instances, `old` and `new`, on 127.0.0.1 and its neighbours. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server as Listener, type Socket, connect as tcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import pg from 'pg'
import type { Console } from '../lib/pgbouncer.ts'
import type { Server } from '../lib/postgres.ts'
import { sh } from '../lib/sh.ts'
import { now, until } from '../lib/wait.ts'
import { kill, processesIn, sweep } from './agent/processes.ts'
import { programs } from './agent/rig.ts'

const PLACES = ['/usr/sbin/pgbouncer', '.cache/pgbouncer/usr/sbin/pgbouncer']
/** Each is behind a gate of its own, which is what PgBouncer knows. */
export const ADDRESS = { old: '127.0.0.31', new: '127.0.0.32' } as const
export type Name = keyof typeof ADDRESS

/** What keeps the rig from running; undefined where nothing does. */
export function missing(): string | undefined {
  const { missing } = programs()
  if (missing) return missing
  return PLACES.some((place) => existsSync(place))
    ? undefined
    : 'they need PgBouncer: node test/run installs it'
}

const asPostgres = (...words: string[]) => [
  ...['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--'],
  ...words,
]

/** Lets connections through to PostgreSQL, or keeps them waiting before its first word. */
class Gate {
  #waiting: { client: Socket; go: () => void }[] = []
  #open = true
  readonly server: Listener
  readonly #sockets = new Set<Socket>()

  constructor(socket: string) {
    this.server = createServer((client) => {
      const go = () => {
        const server = tcp(socket)
        for (const each of [client, server]) {
          this.#sockets.add(each)
          each.on('error', () => {})
          each.on('close', () => {
            client.destroy()
            server.destroy()
          })
        }
        client.pipe(server).pipe(client)
      }
      client.on('error', () => {})
      if (this.#open) go()
      else this.#waiting.push({ client, go })
    })
  }

  get waiting(): number {
    return this.#waiting.length
  }

  shut(): void {
    this.#open = false
  }

  open(): void {
    this.#open = true
    for (const { go } of this.#waiting.splice(0)) go()
  }

  /** Who waits is thrown out, as by a server that dies. */
  cut(): void {
    for (const { client } of this.#waiting.splice(0)) client.destroy()
  }

  close(): void {
    this.cut()
    this.server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}

export class PgBouncerRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'pgcm-bouncer-'))
  readonly gates = {} as Record<Name, Gate>
  readonly #clients: pg.Client[] = []
  #port = 0
  #console: Console | undefined
  #bouncer: ChildProcess | undefined

  static async make(): Promise<PgBouncerRig> {
    const rig = new PgBouncerRig()
    chmodSync(rig.dir, 0o777)
    process.once('exit', () => sweep(rig.dir)) // also where a test has thrown
    try {
      await rig.#start()
    } catch (error) {
      await rig.destroy()
      throw error
    }
    return rig
  }

  async #start(): Promise<void> {
    const { bindir } = programs()
    for (const name of ['old', 'new'] as const) {
      const data = join(this.dir, name)
      await sh(asPostgres(join(bindir, 'initdb'), '--no-sync', '--auth=trust', '-D', data))
      const settings = [
        "listen_addresses=''",
        'fsync=off',
        `cluster_name=${name}`,
        `unix_socket_directories=${data}`,
      ]
      const options = [...settings, 'shared_buffers=8MB', 'wal_level=logical'].flatMap((each) => ['-c', each])
      const words = [
        '-D',
        data,
        '-w',
        '-l',
        join(data, 'log'),
        '-o',
        options.map((word) => `'${word}'`).join(' '),
        'start',
      ]
      await sh(asPostgres(join(bindir, 'pg_ctl'), ...words))
      this.gates[name] = new Gate(join(data, '.s.PGSQL.5432'))
    }
    this.#port = await listen(this.gates.old.server, ADDRESS.old, 0)
    await listen(this.gates.new.server, ADDRESS.new, this.#port)
    await this.restart()
  }

  get file(): string {
    return join(this.dir, 'pgbouncer.ini')
  }

  /** What pgcm-proxy does to the file; `RELOAD` is not said. */
  write(name: Name): void {
    const lines = [
      ...['[databases]', `app = host=${ADDRESS[name]} port=${this.#port} dbname=postgres user=postgres`],
      ...['[pgbouncer]', `unix_socket_dir = ${this.dir}`, `listen_port = ${this.#port}`],
      ...['auth_type = any', 'admin_users = pgcm', 'pool_mode = transaction', 'listen_addr ='],
      ...[
        'ignore_startup_parameters = extra_float_digits',
        `pidfile = ${this.dir}/pid`,
        `logfile = ${this.dir}/log`,
      ],
    ]
    writeFileSync(this.file, `${lines.join('\n')}\n`)
  }

  /** A new PgBouncer that knows `old`, with its own defaults. */
  async restart(): Promise<void> {
    await this.#stop()
    this.write('old')
    this.#launch()
    // Its socket is there before it listens.
    const answers = async () => (await this.admin().catch(() => undefined)) !== undefined
    await until('PgBouncer answers', { timeoutMs: 10_000, everyMs: 20 }, answers)
  }

  #launch(): void {
    const program = resolve(PLACES.find((place) => existsSync(place)) ?? '')
    const [setpriv = '', ...words] = asPostgres(program, '-q', this.file)
    this.#bouncer = spawn(setpriv, words, { cwd: this.dir, stdio: 'ignore' })
  }

  /** Another PgBouncer in its place, of which this process has heard nothing when it returns: it waits for nobody. */
  replace(): void {
    this.#bouncer?.kill('SIGKILL')
    for (const file of [this.socket, join(this.dir, 'pid')]) rmSync(file, { force: true })
    this.#launch()
    const listens = new RegExp(` 00010000 .* ${this.socket}$`, 'm')
    const deadline = now() + 10_000
    while (!listens.test(readFileSync('/proc/net/unix', 'utf8'))) {
      if (now() > deadline) throw new Error('PgBouncer does not listen')
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)
    }
  }

  get socket(): string {
    return join(this.dir, `.s.PGSQL.${this.#port}`)
  }

  async #stop(): Promise<void> {
    const bouncer = this.#bouncer
    if (!bouncer) return
    const gone = new Promise((resolve) => bouncer.on('exit', resolve))
    if (bouncer.exitCode === null && bouncer.kill('SIGKILL')) await gone
    for (const file of [this.socket, join(this.dir, 'pid')]) rmSync(file, { force: true })
  }

  /** For what is ours. */
  get console(): Console {
    this.#console ??= {
      host: this.dir,
      port: this.#port,
      user: 'pgcm',
      password: '',
      database: 'pgbouncer',
      timeoutMs: 3000,
    }
    return this.#console
  }

  /** A connection to the admin console, for what is not. */
  admin(): Promise<pg.Client> {
    return this.#connect('pgcm', 'pgbouncer')
  }

  /** One of the PostgreSQL instances, past gate and PgBouncer. */
  server(name: Name, user = 'postgres'): Server {
    return { host: join(this.dir, name), port: 5432, user, database: 'postgres', timeoutMs: 3000 }
  }

  /** A client of the application. */
  client(): Promise<pg.Client> {
    return this.#connect('app', 'app')
  }

  async #connect(user: string, database: string): Promise<pg.Client> {
    const client = new pg.Client({ host: this.dir, port: this.#port, user, database })
    client.on('error', () => {})
    this.#clients.push(client)
    await client.connect()
    return client
  }

  async destroy(): Promise<void> {
    for (const client of this.#clients) cutOff(client)
    await this.#stop()
    for (const gate of Object.values(this.gates)) gate.close()
    for (const { pid } of processesIn(this.dir)) kill(pid, 'SIGQUIT')
    await until(
      'all have ended',
      { timeoutMs: 5000, everyMs: 20 },
      () => processesIn(this.dir).length === 0,
    ).catch(() => {
      for (const { pid } of processesIn(this.dir)) kill(pid, 'SIGKILL')
    })
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })
  }
}

/** Ends a connection without a word. */
export const cutOff = (client: pg.Client): void =>
  (client as unknown as { connection: { stream: Socket } }).connection.stream.destroy() as never

/** Which of the two answered. */
export const whoAnswers = async (client: pg.Client): Promise<string> =>
  (await client.query("SELECT current_setting('cluster_name') AS name")).rows[0].name

function listen(server: Listener, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.on('error', reject).listen(port, host, () => {
      const bound = server.address()
      resolve(typeof bound === 'object' && bound ? bound.port : 0)
    })
  })
}
