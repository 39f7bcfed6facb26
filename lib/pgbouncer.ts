import pg from 'pg'
import type { Blocker } from './api.ts'
import type { Config } from './config.ts'
import { Failed, messageOf } from './errors.ts'
import { log } from './log.ts'
import { now, until, within } from './wait.ts'

/** Where the admin console is, and how long one of its commands may take. */
export interface Console {
  host: string
  port: number
  user: string
  password: string
  database: string
  timeoutMs: number
}

export const consoleOf = (config: Config): Console => ({
  host: config.pgbouncerSocketDir,
  port: config.pgbouncerPort,
  user: config.pgbouncerUser,
  password: config.pgbouncerPassword,
  database: config.pgbouncerDatabase,
  timeoutMs: config.pgbouncerTimeout,
})

/** A command that PgBouncer refused or did not answer. */
export class PgBouncerFailed extends Failed {}

/** A pause that open transactions kept from completing. It has been undone. */
export class PauseBlocked extends Failed {
  readonly blockers: Blocker[]

  constructor(timeoutMs: number, blockers: Blocker[]) {
    const who = blockers.map(describe).join('; ')
    super(`PgBouncer was not idle within ${timeoutMs} ms${who ? `, blocked by ${who}` : ''}`)
    this.blockers = blockers
  }
}

export const describe = ({ database, user, client, ageMs, state }: Blocker): string =>
  `${database}: user ${user} from ${client}, ${state}${ageMs === null ? '' : ` for ${(ageMs / 1000).toFixed(1)} s`}`

type Row = Record<string, string | number | null>
type Query = (text: string, timeoutMs?: number) => Promise<Row[]>

/** Runs `body` on an admin connection of its own, which is cut off afterwards whatever state it is in. */
async function session<T>(console: Console, body: (query: Query) => Promise<T>): Promise<T> {
  const { timeoutMs, ...where } = console
  const client = new pg.Client({ ...where, connectionTimeoutMillis: timeoutMs, application_name: 'pgcm' })
  client.on('error', (error) => log.debug('pgbouncer.connection', { error })) // without a listener it would end the process
  const fail = (what: string) => (cause: unknown) => {
    throw new PgBouncerFailed(`PgBouncer: ${what}: ${messageOf(cause)}`, undefined, { cause })
  }
  try {
    await client.connect().catch(fail(`cannot connect to ${where.host}, port ${where.port}`))
    return await body(async (text, limit = timeoutMs) => {
      // A simple query: the console knows no other kind.
      const { rows } = await within(limit, text, client.query<Row>(text)).catch(fail(text))
      return rows
    })
  } finally {
    ;(client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
  }
}

export interface Database {
  name: string
  host: string | null
  port: number
  paused: boolean
  disabled: boolean
  poolMode: string | null
}

const databases = async (query: Query): Promise<Database[]> =>
  (await query('SHOW DATABASES'))
    .filter((row) => row.name !== 'pgbouncer')
    .map((row) => ({
      name: String(row.name),
      host: row.host === null || row.host === '' ? null : String(row.host),
      port: Number(row.port),
      paused: Number(row.paused) === 1,
      disabled: Number(row.disabled) === 1,
      poolMode: row.pool_mode ? String(row.pool_mode) : null,
    }))

/** Where its databases point. */
export const showDatabases = (console: Console): Promise<Database[]> => session(console, databases)

export interface Pool {
  database: string
  user: string
  clientsActive: number
  clientsWaiting: number
  serversActive: number
  serversIdle: number
  serversLogin: number
  maxWaitMs: number
  mode: string
}

const pools = async (query: Query): Promise<Pool[]> =>
  (await query('SHOW POOLS'))
    .filter((row) => row.database !== 'pgbouncer')
    .map((row) => ({
      database: String(row.database),
      user: String(row.user),
      clientsActive: Number(row.cl_active),
      clientsWaiting: Number(row.cl_waiting),
      serversActive: Number(row.sv_active),
      serversIdle: Number(row.sv_idle) + Number(row.sv_used) + Number(row.sv_tested),
      serversLogin: Number(row.sv_login),
      maxWaitMs: Number(row.maxwait) * 1000 + Math.round(Number(row.maxwait_us ?? 0) / 1000),
      mode: String(row.pool_mode),
    }))

export const showPools = (console: Console): Promise<Pool[]> => session(console, pools)

/** `1.24.1`. */
export const showVersion = (console: Console): Promise<string> =>
  session(console, async (query) => {
    const text = String(Object.values((await query('SHOW VERSION'))[0] ?? {})[0] ?? '')
    return text.match(/\d+(\.\d+)+/)?.[0] ?? text
  })

/** Settings by name, as `SHOW CONFIG` gives them. */
export const showConfig = (console: Console): Promise<Map<string, string>> =>
  session(
    console,
    async (query) => new Map((await query('SHOW CONFIG')).map((r) => [String(r.key), String(r.value)])),
  )

/** Says it to the console; `RESUME` of a PgBouncer that is not paused is no error. */
export const resume = (console: Console): Promise<void> =>
  session(console, async (query) => {
    await query('RESUME').catch((error) => {
      if (!/not paused/.test(error.message)) throw error
    })
  })

/** Makes PgBouncer read its file again. It answers OK to a broken file too, so look at what it does then. */
export const reload = (console: Console): Promise<Database[]> =>
  session(console, async (query) => {
    await query('RELOAD')
    return databases(query)
  })

/** Drops the server connections of every database as soon as their transaction ends, and connects anew. */
export const reconnect = (console: Console): Promise<void> =>
  session(console, async (query) => {
    await query('RECONNECT')
  })

const seconds = (text: unknown): number => {
  const at = Date.parse(String(text).replace(' UTC', 'Z').replace(' ', 'T'))
  return Number.isNaN(at) ? Number.NaN : at
}

/** The clients that have a server of their own at this moment: whoever is in a transaction, or in a session pool. */
async function blockersOf(query: Query): Promise<Blocker[]> {
  const clients = await query('SHOW CLIENTS')
  const servers = new Map((await query('SHOW SERVERS')).map((server) => [server.ptr, server]))
  return clients
    .filter((client) => client.database !== 'pgbouncer' && client.link)
    .map((client) => {
      const since = seconds(servers.get(client.link ?? '')?.request_time ?? client.request_time)
      return {
        database: String(client.database),
        user: String(client.user),
        client:
          String(client.addr) === 'unix'
            ? `unix socket, pid ${client.remote_pid}`
            : `${client.addr}:${client.port}`,
        ageMs: Number.isNaN(since) ? null : Math.max(0, Date.now() - since),
        state: 'in transaction',
      }
    })
}

export const blockers = (console: Console): Promise<Blocker[]> => session(console, blockersOf)

/**
 * Holds every client of this PgBouncer; comes back once no server connection is in use. On time-out (or when `signal` aborts) the
 * pause is undone and `PauseBlocked` names the transactions that were open.
 *
 * Always the whole PgBouncer, and only while no server login is under way: a login that meets a pause is
 * remembered as failed, and after RESUME waiting clients are thrown out with "cached error: pause mode".
 */
export async function pause(
  console: Console,
  { timeoutMs, signal }: { timeoutMs: number; signal?: AbortSignal | undefined },
): Promise<void> {
  const start = now()
  const left = () => Math.max(1, timeoutMs - (now() - start))
  let begun = false
  try {
    await session(console, async (query) => {
      const calm = async () => (await pools(query)).every((pool) => pool.serversLogin === 0)
      await until(
        'no server login is under way',
        { timeoutMs: left(), everyMs: 2, ...(signal && { signal }) },
        calm,
      )
      begun = true
      const stopped = new Promise<never>((_, reject) => {
        signal?.addEventListener('abort', () => reject(new PgBouncerFailed('PAUSE was stopped')), {
          once: true,
        })
      })
      await Promise.race([query('PAUSE', left()), stopped]).catch((error) => {
        if (!/already suspended\/paused/.test(error.message)) throw error
      })
      // "Already paused" is also what it says while another PAUSE still waits.
      const idle = async () => (await pools(query)).every((pool) => pool.serversActive === 0)
      await until(
        'no server connection is in use',
        { timeoutMs: left(), everyMs: 5, ...(signal && { signal }) },
        idle,
      )
    })
  } catch (error) {
    const found = now() - start >= timeoutMs ? await blockers(console).catch(() => []) : null
    if (begun) await resume(console)
    if (found && !signal?.aborted) throw new PauseBlocked(timeoutMs, found)
    throw error
  }
}
