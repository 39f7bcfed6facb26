import { watch } from 'node:fs'
import { isIP, type Socket } from 'node:net'
import { dirname } from 'node:path'
import pg from 'pg'
import type { Blocker } from './api.ts'
import type { Config } from './config.ts'
import { Failed, messageOf } from './errors.ts'
import { log } from './log.ts'
import { now, sleep, until, within } from './wait.ts'

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
class PgBouncerFailed extends Failed {}

/** A pause that open transactions kept from completing. It has been undone. */
export class PauseBlocked extends Failed {
  readonly blockers: Blocker[]
  readonly timeoutMs: number

  constructor(timeoutMs: number, blockers: Blocker[]) {
    const who = blockers.map(describe).join('; ')
    super(`PgBouncer was not idle within ${timeoutMs} ms${who ? `, blocked by ${who}` : ''}`)
    this.blockers = blockers
    this.timeoutMs = timeoutMs
  }
}

export const describe = ({ database, user, client, ageMs, state }: Blocker): string =>
  `${database}: user ${user} from ${client}, ${state}${ageMs === null ? '' : ` for ${(ageMs / 1000).toFixed(1)} s`}`

type Row = Record<string, string | number | null>
export type Query = (text: string, timeoutMs?: number) => Promise<Row[]>

interface Link {
  query: Query
  close(): void
  /** False once it broke. */
  alive(): boolean
  /** Whether this process lives on for it. */
  hold(held: boolean): void
}

/** A log-in on the admin console. After an answer that never came it is good for nothing else. */
async function logIn({ timeoutMs, ...where }: Console): Promise<Link> {
  const client = new pg.Client({ ...where, connectionTimeoutMillis: timeoutMs, application_name: 'pgcm' })
  let alive = true
  client.on('end', () => {
    alive = false
  })
  client.on('error', (error) => {
    alive = false
    log.debug('pgbouncer.connection', { error }) // without a listener it would end the process
  })
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection
  const fail = (what: string) => (cause: unknown) => {
    throw new PgBouncerFailed(`PgBouncer: ${what}: ${messageOf(cause)}`, undefined, { cause })
  }
  try {
    await client.connect().catch(fail(`cannot connect to ${where.host}, port ${where.port}`))
  } catch (error) {
    stream.destroy()
    throw error
  }
  const query: Query = async (text, limit = timeoutMs) => {
    // A simple query: the console knows no other kind.
    const { rows } = await within(limit, 'the answer', client.query<Row>(text)).catch(fail(text))
    return rows
  }
  return {
    query,
    close: () => void stream.destroy(),
    alive: () => alive && stream.readable && stream.writable,
    hold: (held) => void (held ? stream.ref() : stream.unref()),
  }
}

/**
 * Connections of each console that are kept for the next time: a log-in costs more than most commands do. Two, as one of them may
 * wait until PgBouncer points at the new primary while the other makes it do so, and clients wait for both.
 */
const kept = new WeakMap<Console, Link[]>()
const KEPT = 2

/**
 * Runs `body` on an admin connection that nobody else uses meanwhile. After a failure it is cut off, whatever state it is in.
 * Where the kept one turns out to be broken before it has given any answer, `body` is run again, on a new one.
 */
export async function session<T>(console: Console, body: (query: Query) => Promise<T>): Promise<T> {
  const old = kept.get(console)?.pop()
  if (old?.alive()) {
    old.hold(true)
    let answered = false
    let lost = false
    const query: Query = async (text, limit) => {
      try {
        const rows = await old.query(text, limit)
        answered = true
        return rows
      } catch (error) {
        lost = !answered && !old.alive()
        throw error
      }
    }
    try {
      return await runOn(console, old, query, body)
    } catch (error) {
      if (!lost) throw error // else PgBouncer was restarted, most likely
    }
  }
  old?.close()
  const link = await logIn(console)
  return runOn(console, link, link.query, body)
}

async function runOn<T>(
  console: Console,
  link: Link,
  query: Query,
  body: (query: Query) => Promise<T>,
): Promise<T> {
  try {
    const result = await body(query)
    const links = kept.get(console) ?? []
    kept.set(console, links)
    if (links.length >= KEPT) link.close()
    else {
      link.hold(false)
      links.push(link)
    }
    return result
  } catch (error) {
    link.close()
    throw error
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

export const databases = async (query: Query): Promise<Database[]> =>
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

/** `1.24.1`. */
const version = async (query: Query): Promise<string> => {
  const text = String(Object.values((await query('SHOW VERSION'))[0] ?? {})[0] ?? '')
  return text.match(/\d+(\.\d+)+/)?.[0] ?? text
}

const settings = async (query: Query): Promise<Map<string, string>> =>
  new Map((await query('SHOW CONFIG')).map((row) => [String(row.key), String(row.value)]))

/** All that the status of a node shows of it, asked on two connections: they are there then when a failover needs both. */
export async function overview(console: Console) {
  const [what, how] = await Promise.all([
    session(console, async (query) => ({
      version: await version(query),
      databases: await databases(query),
      pools: await pools(query),
    })),
    session(console, async (query) => ({
      config: await settings(query),
      // SHOW DATABASES does not tell a pause of the whole PgBouncer, and before 1.19 nothing does.
      paused: (await query('SHOW STATE').catch((): Row[] => [])).some(
        (r) => r.key === 'paused' && r.value === 'yes',
      ),
    })),
  ])
  return { ...what, ...how }
}

/** A timer may fire this much before its time, by the clock that measures it. */
const EARLY_MS = 5
const POINT_POLL_MS = 100
/** After its file has changed, PgBouncer is about to be reloaded. */
const SOON_MS = 300

/** Waits until each of `names` points at `address`; looks when `file`, PgBouncer's configuration, changes, and now and then. */
export async function pointsAt(
  console: Console,
  names: string[],
  address: string,
  { timeoutMs, signal, file }: { timeoutMs: number; signal: AbortSignal; file: string },
): Promise<void> {
  const start = now()
  let last = 'PgBouncer has not answered'
  let wake = new AbortController()
  let changed = -Infinity
  const watcher = watched(dirname(file), () => {
    changed = now()
    wake.abort()
  })
  try {
    for (;;) {
      if (signal.aborted || now() - start >= timeoutMs)
        throw new PgBouncerFailed(`not pointed at ${address} within ${timeoutMs} ms: ${last}`)
      try {
        // One connection for all the looking; a new one only when it breaks.
        await session(console, async (query) => {
          while (!signal.aborted && now() - start < timeoutMs) {
            const found = new Map((await databases(query)).map((database) => [database.name, database.host]))
            const astray = names.filter((name) => found.get(name) !== address)
            last = astray.map((name) => `${name} points at ${found.get(name) ?? 'nothing'}`).join(', ')
            if (astray.length === 0) return
            wake = new AbortController()
            const pause = now() - changed < SOON_MS ? 10 : POINT_POLL_MS
            await sleep(Math.min(pause, timeoutMs), AbortSignal.any([signal, wake.signal]))
          }
          throw new Failed(last)
        })
        return
      } catch (error) {
        if (error instanceof PgBouncerFailed) last = error.message
        await sleep(20, signal)
      }
    }
  } finally {
    watcher?.close()
  }
}

/** Calls `changed` when something in the directory changes; undefined where that cannot be had, and polls have to do. */
function watched(dir: string, changed: () => void) {
  try {
    return watch(dir, { persistent: false }, changed).on('error', () => {})
  } catch {
    return undefined
  }
}

/**
 * Says it to the console; `RESUME` of a PgBouncer that is not paused is no error.
 * @returns how long the client that waits longest has waited, in ms, right after it
 */
export const resume = (console: Console): Promise<number> =>
  session(console, async (query) => {
    await query('RESUME').catch((error) => {
      if (!/not paused/.test(error.message)) throw error
    })
    // They wait until PgBouncer has logged in again, as it closes its connections when it pauses.
    return Math.max(0, ...(await pools(query).catch(() => [])).map(({ maxWaitMs }) => maxWaitMs))
  })

/** Makes PgBouncer read its file again. It answers OK to a broken file too, so look at what it does then. */
export const reload = async (query: Query): Promise<Database[]> => {
  await query('RELOAD')
  return databases(query)
}

/**
 * Cuts off the clients whose server connection still hangs on one of the addresses `left`, where their database no longer points, so
 * that they fail at once. PgBouncer knows how from 1.24 on; before, its TCP timers end them a few seconds later. Gives how many were
 * cut off.
 */
export const dropStragglers = async (query: Query, left: Set<string>): Promise<number> => {
  const hosts = new Map((await databases(query)).map(({ name, host }) => [name, host?.split(',') ?? []]))
  const astray = (await query('SHOW SERVERS')).filter(({ database, addr, link }) => {
    if (!left.has(String(addr))) return false // of a standby that serves no readers any more: its transactions may end
    const wanted = hosts.get(String(database)) ?? []
    // Of a name, or of the directory of a socket, nobody can tell here whether that address is meant.
    return link && wanted.length > 0 && wanted.every((host) => isIP(host)) && !wanted.includes(String(addr))
  })
  if (astray.length === 0) return 0
  const clients = new Map((await query('SHOW CLIENTS')).map((client) => [client.ptr, client.id]))
  let dropped = 0
  for (const { link } of astray) {
    const id = clients.get(link ?? '')
    if (id === undefined) continue
    await query(`KILL_CLIENT ${id}`).then(
      () => dropped++,
      (error) => log.debug('pgbouncer.kill', { error }),
    )
  }
  return dropped
}

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
      const server = servers.get(client.link ?? '')
      const since = seconds(server?.request_time ?? client.request_time)
      return {
        database: String(client.database),
        user: String(client.user),
        client:
          String(client.addr) === 'unix'
            ? `unix socket, pid ${client.remote_pid}`
            : `${client.addr}:${client.port}`,
        ageMs: Number.isNaN(since) ? null : Math.max(0, Date.now() - since),
        state: 'in transaction',
        via: server ? `${server.local_addr}:${server.local_port}` : '',
      }
    })
}

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
      const gone = () => new PgBouncerFailed('PAUSE was stopped')
      if (signal?.aborted) throw gone() // during the last look
      begun = true
      const stopped = new Promise<never>((_, reject) => {
        signal?.addEventListener('abort', () => reject(gone()), { once: true })
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
    if (!begun) throw error
    const late = now() - start >= timeoutMs - EARLY_MS && !signal?.aborted
    const found = late ? await session(console, blockersOf).catch(() => []) : []
    await resume(console)
    throw late ? new PauseBlocked(timeoutMs, found) : error
  }
}
