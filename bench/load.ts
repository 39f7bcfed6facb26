/**
 * The load client: short write transactions through PgBouncer, each with an id of its own, and a record of
 * every one that was acknowledged. Afterwards the ledger says which acknowledged rows a node lacks, which is
 * the one figure that must be 0 whatever was done to the cluster meanwhile.
 *
 * Bounded in rate, count and time; it stops by itself.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'

/** One way in: a PgBouncer, by the name that the report uses. */
export interface Path {
  name: string
  host: string
  port: number
}

export interface LoadOptions {
  paths: Path[]
  user: string
  password?: string
  database: string
  /** Connections in total, dealt out over the paths in turn. */
  connections?: number
  /** Transactions a second in total, never more. */
  rate?: number
  /** The load ends by itself after so long, or so many transactions, whichever is first. */
  maxMs?: number
  maxTransactions?: number
  /** A transaction that takes longer is given up, its connection dropped: its outcome is unknown. */
  transactionTimeoutMs?: number
  connectTimeoutMs?: number
  /** Tells runs apart in the one ledger table. */
  run?: string
  /** How to get a session; a test passes its own. */
  connect?: (path: Path, options: LoadOptions) => Promise<Session>
}

/** What the load needs of a connection. `commit` resolves only for an acknowledgement that counts. */
export interface Session {
  begin(): Promise<void>
  insert(run: string, id: number): Promise<number>
  commit(): Promise<void>
  end(): void
}

/** An acknowledged transaction. Times are milliseconds since the load began, timeline is the primary's epoch. */
export interface Ack {
  id: number
  path: number
  began: number
  at: number
  timeline: number
}

export interface LoadError {
  at: number
  path: string
  kind: string
  /** The commit had been sent: the row may or may not be there. */
  unknown: boolean
}

export interface Figures {
  commits: number
  errors: number
  /** Milliseconds between two commits, the load's begin and end included. */
  longestGapMs: number
  gapAt: number
  longestTransactionMs: number
}

export interface Report extends Figures {
  run: string
  elapsedMs: number
  errorKinds: Record<string, number>
  firstErrors: LoadError[]
  paths: Record<string, Figures>
  /** Transactions of an older timeline that began after one of a newer was acknowledged: two writers. Must be 0. */
  twoWriters: number
  timelines: number[]
}

export interface Load {
  readonly run: string
  readonly startedAt: number
  readonly acks: readonly Ack[]
  readonly errors: readonly LoadError[]
  /** Milliseconds since the load began, on the clock of the acknowledgements. */
  now(): number
  /** Resolves when a commit begun after `since` (default: now) was acknowledged; false at the deadline. */
  commitAfter(deadlineMs: number, since?: number, path?: string): Promise<boolean>
  /** Figures of the stretch from `since` on, the load still running. */
  figures(since?: number): Figures
  /** Ends the load, waits for what is in flight, and reports. Can be called again. */
  stop(): Promise<Report>
  /** Resolves when the load has reached its own bound. */
  finished: Promise<void>
}

export const LEDGER_DDL =
  'create table if not exists ledger (run text, id bigint, at timestamptz not null default clock_timestamp(), ' +
  'timeline int not null, primary key (run, id))'

const defaults = {
  connections: 8,
  rate: 200,
  maxMs: 60_000,
  maxTransactions: 1_000_000,
  transactionTimeoutMs: 30_000,
  connectTimeoutMs: 2_000,
}

/** Creates the ledger table where it is missing, through the first path. */
export async function prepareLedger(options: LoadOptions): Promise<void> {
  const client = newClient(options.paths[0] as Path, options)
  await client.connect()
  try {
    await client.query(LEDGER_DDL)
  } finally {
    await client.end()
  }
}

/** Starts the load; it runs until `stop` or its own bound. */
export function startLoad(given: LoadOptions): Load {
  const options = { ...defaults, ...given }
  const run = options.run ?? `${Date.now().toString(36)}-${process.pid}`
  const connect = options.connect ?? connectPg
  const zero = performance.now()
  const now = () => performance.now() - zero
  const acks: Ack[] = []
  const errors: LoadError[] = []
  const watchers = new Set<(ack: Ack) => void>()
  const sessions = new Set<Session>()
  const ended = new AbortController()
  let nextId = 1
  let stoppedAt = 0

  const idle = (ms: number) => sleep(ms, undefined, { signal: ended.signal }).catch(() => {})
  const over = () => ended.signal.aborted || now() >= options.maxMs || nextId > options.maxTransactions

  async function worker(index: number) {
    const pathIndex = index % options.paths.length
    const path = options.paths[pathIndex] as Path
    const period = (options.connections * 1000) / options.rate
    let due = (index * 1000) / options.rate
    let session: Session | undefined
    while (!over()) {
      if (due > now()) await idle(due - now())
      if (over()) break
      // A stall is not made up for afterwards: the rate is a bound, not an average.
      due = Math.max(due + period, now())
      const id = nextId++
      let sent = false
      try {
        const began = now()
        if (!session) {
          session = await connect(path, options)
          sessions.add(session)
        }
        await session.begin()
        const timeline = await session.insert(run, id)
        sent = true
        await session.commit()
        const ack = { id, path: pathIndex, began, at: now(), timeline }
        acks.push(ack)
        for (const watcher of watchers) watcher(ack)
      } catch (error) {
        errors.push({ at: now(), path: path.name, kind: kindOf(error), unknown: sent })
        session?.end()
        if (session) sessions.delete(session)
        session = undefined
      }
    }
    session?.end()
  }

  const finished = Promise.all(Array.from({ length: options.connections }, (_, i) => worker(i))).then(() => {
    stoppedAt ||= now()
  })

  return {
    run,
    startedAt: Date.now(),
    acks,
    errors,
    now,
    finished,
    commitAfter(deadlineMs, since = now(), path) {
      const wanted = path === undefined ? undefined : options.paths.findIndex((p) => p.name === path)
      const fits = (ack: Ack) => ack.began >= since && (wanted === undefined || ack.path === wanted)
      if (acks.some(fits)) return Promise.resolve(true)
      return new Promise((resolve) => {
        const watcher = (ack: Ack) => {
          if (fits(ack)) done(true)
        }
        const done = (result: boolean) => {
          clearTimeout(timer)
          watchers.delete(watcher)
          resolve(result)
        }
        const timer = setTimeout(done, deadlineMs, false)
        watchers.add(watcher)
      })
    },
    figures: (since = 0) => figures(acks, errors, since, stoppedAt || now()),
    async stop() {
      stoppedAt ||= now()
      ended.abort()
      // What is in flight may finish; what hangs is dropped, its outcome unknown.
      await Promise.race([finished, sleep(3_000, undefined, { ref: false })])
      for (const session of sessions) session.end()
      await Promise.race([finished, sleep(3_000, undefined, { ref: false })])
      return report(run, options.paths, acks, errors, stoppedAt)
    },
  }
}

/** Pure: the report of a finished load. */
export function report(
  run: string,
  paths: Path[],
  acks: readonly Ack[],
  errors: readonly LoadError[],
  elapsedMs: number,
): Report {
  const errorKinds: Record<string, number> = {}
  for (const { kind } of errors) errorKinds[kind] = (errorKinds[kind] ?? 0) + 1
  const byPath = paths.map((path, index): [string, Figures] => [
    path.name,
    figures(
      acks.filter((ack) => ack.path === index),
      errors.filter((error) => error.path === path.name),
      0,
      elapsedMs,
    ),
  ])
  return {
    run,
    elapsedMs,
    ...figures(acks, errors, 0, elapsedMs),
    errorKinds,
    firstErrors: errors.slice(0, 5),
    paths: Object.fromEntries(byPath),
    twoWriters: countTwoWriters(acks),
    timelines: [...new Set(acks.map((ack) => ack.timeline))].sort((a, b) => a - b),
  }
}

/** Pure. An acknowledgement that was under way while the primary changed is no second writer; a later beginning is. */
export function countTwoWriters(acks: readonly Ack[]): number {
  const firstOf = new Map<number, number>()
  for (const { timeline, at } of acks) firstOf.set(timeline, Math.min(at, firstOf.get(timeline) ?? at))
  const older = (ack: Ack) => [...firstOf].some(([timeline, at]) => timeline > ack.timeline && at < ack.began)
  return acks.filter(older).length
}

/** Pure: the figures of the stretch `since`..`until`. Its two ends count as gaps, so that silence is never a good result. */
export function figures(
  acks: readonly Ack[],
  errors: readonly LoadError[],
  since: number,
  until: number,
): Figures {
  const within = acks.filter((ack) => ack.at >= since && ack.at <= until)
  const times = [since, ...within.map((ack) => ack.at).sort((a, b) => a - b), until]
  let longestGapMs = 0
  let gapAt = since
  for (let i = 1; i < times.length; i++) {
    const gap = (times[i] as number) - (times[i - 1] as number)
    if (gap > longestGapMs) {
      longestGapMs = gap
      gapAt = times[i - 1] as number
    }
  }
  return {
    commits: within.length,
    errors: errors.filter((error) => error.at >= since).length,
    longestGapMs,
    gapAt,
    longestTransactionMs: within.reduce((longest, ack) => Math.max(longest, ack.at - ack.began), 0),
  }
}

/** What one node's copy of the ledger says about a run. */
export interface Verdict {
  acknowledged: number
  present: number
  /** Acknowledged to a client and not there: the failure that this whole project is about. */
  missing: number[]
  /** There although no client was told so; allowed (the connection died before the answer came). */
  unacknowledged: number[]
}

/** Pure: compares the acknowledgements with the ids that a node holds. */
export function verify(acks: readonly Ack[], present: Iterable<number>): Verdict {
  const there = new Set(present)
  const known = new Set(acks.map((ack) => ack.id))
  return {
    acknowledged: known.size,
    present: there.size,
    missing: [...known].filter((id) => !there.has(id)),
    unacknowledged: [...there].filter((id) => !known.has(id)),
  }
}

/** One line for people. */
export function summary(r: Report): string {
  const ms = (n: number) => `${Math.round(n)} ms`
  const kinds = Object.entries(r.errorKinds).map(([kind, count]) => `${count} x ${kind}`)
  return (
    `${r.commits} commits in ${(r.elapsedMs / 1000).toFixed(1)} s, ${r.errors} errors` +
    `${kinds.length > 0 ? ` (${kinds.join(', ')})` : ''}, longest gap ${ms(r.longestGapMs)}, ` +
    `longest transaction ${ms(r.longestTransactionMs)}`
  )
}

function kindOf(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string }
  return code && message ? `${code} ${message}` : (message ?? String(error))
}

function newClient(path: Path, options: LoadOptions): pg.Client {
  const client = new pg.Client({
    host: path.host,
    port: path.port,
    user: options.user,
    password: options.password ?? '',
    database: options.database,
    application_name: 'pgcm-load',
    connectionTimeoutMillis: options.connectTimeoutMs ?? defaults.connectTimeoutMs,
    query_timeout: options.transactionTimeoutMs ?? defaults.transactionTimeoutMs,
  })
  client.on('error', () => {}) // without a listener it would end the process; the next query reports it
  return client
}

async function connectPg(path: Path, options: LoadOptions): Promise<Session> {
  const client = newClient(path, options)
  let doubt = ''
  let broken: Error | undefined
  client.on('error', (error) => {
    broken ??= error
  })
  // A cancelled wait for the standby is acknowledged all the same, with this warning: such a commit may be lost.
  client.on('notice', (notice) => {
    if (/synchronous replication/.test(notice.message ?? '')) doubt = notice.message ?? ''
  })
  const drop = () => {
    const { stream } = (client as unknown as { connection: { stream: { destroy(): void } } }).connection
    stream.destroy()
  }
  try {
    await client.connect()
  } catch (error) {
    drop()
    throw error
  }
  return {
    async begin() {
      if (broken) throw broken // killed while idle: the server's own words, not the driver's
      await client.query('begin')
    },
    async insert(run, id) {
      const result = await client.query(
        `insert into ledger (run, id, timeline)
         values ($1, $2, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int) returning timeline`,
        [run, id],
      )
      return Number(result.rows[0].timeline)
    },
    async commit() {
      const { command } = await client.query('commit')
      // COMMIT of a failed transaction answers ROLLBACK, without an error.
      if (command !== 'COMMIT') throw new Error(`commit answered ${command}`)
      if (doubt) throw new Error(doubt)
    },
    end: drop,
  }
}
