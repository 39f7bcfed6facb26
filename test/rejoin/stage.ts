/**
 * pg01 was primary, pg03 is, and pg02 follows. What pg01 may look like then is kept in copies, each of which
 * pgcm-rejoin, the real command, is let loose on. Pacemaker is played from here.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { serve } from '../../lib/apiserver.ts'
import { load } from '../../lib/config.ts'
import { messageOf } from '../../lib/errors.ts'
import { localMachine } from '../../lib/local.ts'
import { rejoinAtLast } from '../../lib/rejoin.ts'
import { sh } from '../../lib/sh.ts'
import { sleep, until } from '../../lib/wait.ts'
import { kill } from '../agent/processes.ts'
import { NODES, type Node, type Outcome, programs, Rig } from '../agent/rig.ts'
import { Gate } from './gate.ts'
import { publicAddress } from './inside.ts'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const STUBS = join(root, 'test/stubs/rejoin')

/** What became of pg01: stopped in order or killed, without or with transactions that the primary has not. */
export type Past = 'stopped' | 'crashed' | 'stopped, diverged' | 'crashed, diverged'

export interface Ended {
  code: number | null
  stdout: string
  stderr: string
}

export interface Run {
  child: ChildProcess
  /** What it has printed so far. */
  out: { stdout: string; stderr: string }
  ended: Promise<Ended>
}

const SETTINGS = `wal_keep_size = 64MB
min_wal_size = 2MB
checkpoint_timeout = 1h
autovacuum = off
`

export class Stage {
  readonly rig: Rig
  readonly gate: Gate
  private readonly api: Awaited<ReturnType<typeof serve>>
  private readonly runs = new Set<ChildProcess>()

  private constructor(rig: Rig, gate: Gate, api: Awaited<ReturnType<typeof serve>>) {
    this.rig = rig
    this.gate = gate
    this.api = api
  }

  static async make(): Promise<Stage> {
    const rig = await Rig.make(programs().bindir, SETTINGS, ['--wal-segsize=1'])
    const gate = await Gate.make(publicAddress('pg03'), '127.0.0.13', rig.port)
    const checkpoint = async () => ({ elapsed_ms: Number(await rig.sql('pg03', 'CHECKPOINT')) })
    const api = await serve({
      bind: `${publicAddress('pg03')}:0`,
      tls: null,
      allowed: [],
      handlers: { checkpoint },
    })
    const stage = new Stage(rig, gate, api)
    for (const node of NODES) writeFileSync(join(rig.dir, `primitive.${node}.xml`), stage.primitive(node))
    await stage.history()
    return stage
  }

  private primitive(node: Node): string {
    const { rig } = this
    const parameters = {
      ...{ pgdata: rig.path(node, 'data'), bindir: rig.bindir, config: rig.path(node, 'postgresql.conf') },
      ...{ pgport: rig.port, socketdir: rig.path(node, 'sock'), tmpdir: rig.path(node, 'tmp') },
      ...{ repuser: 'postgres' },
    }
    const pairs = Object.entries(parameters).map(
      ([name, value]) => `<nvpair id="${name}" name="${name}" value="${value}"/>`,
    )
    return `<primitive id="Postgresql"><instance_attributes id="i">${pairs.join('')}</instance_attributes></primitive>`
  }

  /** The epochs 9 of pg01 and 11 of pg03, with a placeholder for 10 and those below 9. */
  private async history(): Promise<void> {
    const { rig } = this
    await rig.agents(NODES, 'start')
    assert.is((await rig.elect('pg01')).code, 0)
    await rig.sql('pg01', "CREATE TABLE kept (t text); INSERT INTO kept VALUES ('a')")
    await rig.sql('pg01', "CREATE TABLE bulk AS SELECT i, 'before' AS t FROM generate_series(1, 20000) AS i")
    await this.freeze('crashed')
    assert.is((await rig.move('pg01', 'pg03')).code, 0)
    await this.save('stopped')
    await rig.sql('pg03', "INSERT INTO kept VALUES ('b')")
    await rig.sql('pg03', "UPDATE bulk SET t = 'new primary' WHERE i % 7 = 0")
    // Somebody starts the old primary by hand: its clients see commits that no other node has.
    const words = [join(rig.bindir, 'postgres'), '-D', rig.path('pg01', 'data')]
    const user = ['--reuid=postgres', '--regid=postgres', '--init-groups', '--']
    spawn('setpriv', [...user, ...words, '-c', `config_file=${rig.path('pg01', 'postgresql.conf')}`], {
      stdio: 'ignore',
      detached: true,
    })
    await until('it takes writes', { timeoutMs: 10_000 }, () =>
      this.lose("INSERT INTO kept VALUES ('lost')").then(
        () => true,
        () => false,
      ),
    )
    await this.lose("UPDATE bulk SET t = 'lost' WHERE i % 3 <> 0")
    await this.freeze('crashed, diverged')
    kill(rig.postmaster('pg01'), 'SIGINT')
    await until('it has stopped', { timeoutMs: 10_000 }, () => rig.processes('pg01').length === 0)
    await this.save('stopped, diverged')
  }

  private lose(text: string): Promise<string> {
    return this.rig.sql('pg01', `SET synchronous_commit = local; ${text}`)
  }

  /** What its disk would hold if it lost power now. */
  private async freeze(past: Past): Promise<void> {
    const pids = this.rig.processes('pg01')
    for (const pid of pids) kill(pid, 'SIGSTOP')
    await this.save(past)
    for (const pid of pids) kill(pid, 'SIGCONT')
  }

  private saved(past: Past): string {
    return join(this.rig.dir, 'saved', past)
  }

  private async save(past: Past): Promise<void> {
    mkdirSync(this.saved(past), { recursive: true })
    const parts = ['data', 'tmp'].map((part) => this.rig.path('pg01', part))
    await sh(['cp', '-a', ...parts, this.saved(past)])
  }

  /** Puts pg01 into one of its pasts. */
  async past(past: Past): Promise<void> {
    const { rig } = this
    if (rig.processes('pg01').length > 0) await rig.crash('pg01')
    this.gate.open()
    const home = rig.path('pg01')
    for (const name of readdirSync(home))
      if (name.startsWith('data') || name === 'tmp' || name === 'run')
        rmSync(join(home, name), { recursive: true })
    await sh(['cp', '-a', `${this.saved(past)}/data`, `${this.saved(past)}/tmp`, home])
    for (const name of ['cleanup@pg01', 'failure@pg01']) rmSync(join(rig.dir, name), { force: true })
    // Its WAL sender has to go before another may be told apart from it.
    await until('the primary has noticed', { timeoutMs: 10_000, everyMs: 50 }, async () => {
      const names = await rig.sql('pg03', 'SELECT application_name FROM pg_stat_replication')
      return !names.includes('pg01')
    })
    await rig.agent('pg03', 'monitor')
    rig.lose('pg01')
  }

  get pgdata(): string {
    return this.rig.path('pg01', 'data')
  }

  /** How far an interrupted run says that it came. */
  mark(): string | null {
    try {
      return readFileSync(this.rig.path('pg01', 'tmp/rejoin.pending'), 'utf8').split(' ')[0] ?? ''
    } catch (error) {
      // One look and not two: it may be removed at any moment.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw error
    }
  }

  /** Whether pg01's lock file is there. */
  locked(): boolean {
    return existsSync(this.rig.path('pg01', 'tmp/PGSQL.lock'))
  }

  /** Starts pgcm-rejoin on a node. */
  start(flags: string[], { node = 'pg01', uid = 0 }: { node?: Node; uid?: number } = {}): Run {
    const endpoints = NODES.map((name) => `${name}:${this.api.port}`).join(',')
    const words = [join(root, 'bin/pgcm-rejoin'), '--insecure', '--failover-api-endpoints', endpoints]
    const child = spawn(process.execPath, [...words, '--rejoin-timeout', '20s', ...flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
      uid,
      env: {
        ...process.env,
        PATH: `${STUBS}:${process.env.PATH}`,
        WORLD: this.rig.dir,
        NODE: node,
        PGCM_CONFIG_FILE: '/dev/null',
        NO_COLOR: '1',
      },
    })
    this.runs.add(child)
    const out = { stdout: '', stderr: '' }
    child.stdout.on('data', (chunk) => {
      out.stdout += chunk
    })
    child.stderr.on('data', (chunk) => {
      out.stderr += chunk
    })
    const ended = new Promise<Ended>((resolve) => {
      child.on('close', (code) => {
        this.runs.delete(child)
        resolve({ code, ...out })
      })
    })
    return { child, out, ended }
  }

  /** Runs pgcm-rejoin to its end, and Pacemaker beside it. */
  async run(flags: string[] = ['--yes'], over: Parameters<Stage['start']>[1] = {}): Promise<Ended> {
    const { ended } = this.start(flags, over)
    await this.pacemaker(ended)
    return ended
  }

  /** The same in this process, where only its end counts: it must be a good one. Gives what it says. */
  async again(): Promise<string> {
    const endpoints = NODES.map((name) => `${name}:${this.api.port}`).join(',')
    const flags = ['--insecure', '--failover-api-endpoints', endpoints, '--rejoin-timeout', '20s', '--yes']
    const { config } = load('rejoin', flags, { PGCM_CONFIG_FILE: '/dev/null' })
    let text = ''
    const out = { write: (more: string) => (text += more) }
    const interrupts = () => ({ signal: new AbortController().signal, abort() {}, dispose() {} })
    const before = { ...process.env }
    Object.assign(process.env, { PATH: `${STUBS}:${process.env.PATH}`, WORLD: this.rig.dir, NODE: 'pg01' })
    const ended = localMachine(config).then((local) =>
      rejoinAtLast({ config, local, out, stdin: {}, env: {}, interrupts }),
    )
    try {
      await this.pacemaker(ended)
      await ended
    } catch (error) {
      // Killed behind its clean-up, the run before may have left nothing to do.
      if (!/streams already/.test(messageOf(error))) throw new Error(`${text}${messageOf(error)}`)
    } finally {
      process.env = before
    }
    return text
  }

  /** Starts pg01 when it is told to forget its failures, and has the primary look at its standbys. */
  async pacemaker(until: Promise<unknown>): Promise<void> {
    let over = false
    const end = () => {
      over = true
    }
    until.then(end, end)
    const { rig } = this
    while (!over) {
      if (existsSync(join(rig.dir, 'cleanup@pg01'))) {
        rmSync(join(rig.dir, 'cleanup@pg01'))
        const { code, reason } = await rig.agent('pg01', 'start')
        if (code !== 0) writeFileSync(join(rig.dir, 'failure@pg01'), `${reason}\n`)
      }
      if (rig.processes('pg01').length > 0) await rig.agent('pg03', 'monitor')
      await Promise.race([sleep(200), until.catch(() => {})])
    }
  }

  /** pg01 streams, with every row of the primary and no other. */
  async follows(): Promise<void> {
    const { rig } = this
    await rig.sql('pg03', "UPDATE kept SET t = t WHERE t = 'a'")
    const all = (node: Node) =>
      rig.sql(
        node,
        "SELECT string_agg(t, ' ' ORDER BY t), (SELECT md5(string_agg(i || t, ',' ORDER BY i)) FROM bulk) FROM kept",
      )
    const there = await rig.sql('pg03', 'SELECT pg_current_wal_lsn()')
    const caught = `SELECT pg_last_wal_replay_lsn() >= '${there}' AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')`
    await until(
      'pg01 streams',
      { timeoutMs: 10_000, everyMs: 50 },
      async () => (await rig.sql('pg01', caught)) === 't',
    )
    assert.match(await all('pg03'), /^a b\|/)
    assert.is(await all('pg01'), await all('pg03'))
    assert.is(this.locked(), false)
    assert.is(this.mark(), null)
    const left = readdirSync(rig.path('pg01')).filter((name) => name.startsWith('data'))
    assert.equal(left, ['data'])
  }

  /** What the agent says when Pacemaker tries to start pg01. It must refuse: 4. */
  tries(): Promise<Outcome> {
    return this.rig.agent('pg01', 'start')
  }

  /** A checksum of all that pg01 has: names, owners, times and contents. */
  async tree(...parts: string[]): Promise<string> {
    const where = parts.length > 0 ? parts : ['data', 'tmp']
    const words = ['tar', '--sort=name', '-C', this.rig.path('pg01'), '-cf', '-', ...where]
    const { stdout } = await sh(['sh', '-c', '"$@" | sha256sum', 'sh', ...words])
    return stdout
  }

  /** Moves a part of pg01's home. */
  move(from: string, to: string): void {
    renameSync(this.rig.path('pg01', from), this.rig.path('pg01', to))
  }

  /** Lets the process end. */
  close(): Promise<void> {
    return this.api.close(0)
  }

  /** The very end, whatever happened. */
  destroy(): void {
    for (const child of this.runs) child.kill('SIGKILL')
    this.rig.destroy()
  }
}
