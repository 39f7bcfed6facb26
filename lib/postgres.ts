import { statfs } from 'node:fs/promises'
import pg from 'pg'
import type { Config } from './config.ts'
import { Failed, messageOf } from './errors.ts'
import { log } from './log.ts'
import type { PostgresStatus } from './nodestatus.ts'
import { now, since, sleep, until, within } from './wait.ts'

/** Where PostgreSQL is, and how long a connection or one question may take. */
export interface Server {
  host: string
  port: number
  user: string
  database: string
  timeoutMs: number
}

export const serverOf = (config: Config): Server => ({
  host: config.postgresSocketDir,
  port: config.postgresPort,
  user: config.postgresUser,
  database: config.postgresDatabase,
  timeoutMs: config.postgresTimeout,
})

export type Query = <R extends pg.QueryResultRow>(text: string, timeoutMs?: number) => Promise<R[]>

/** Runs `body` on a connection of its own. The connection is cut off afterwards: nothing of ours is left waiting. */
export async function session<T>(server: Server, body: (query: Query) => Promise<T>): Promise<T> {
  const { timeoutMs, ...where } = server
  const client = new pg.Client({ ...where, connectionTimeoutMillis: timeoutMs, application_name: 'pgcm' })
  client.on('error', (error) => log.debug('postgres.connection', { error })) // without a listener it would end the process
  const fail = (what: string) => (cause: unknown) => {
    throw new Failed(`PostgreSQL: ${what}: ${messageOf(cause)}`, undefined, { cause })
  }
  try {
    await client.connect().catch(fail(`cannot connect to ${where.host}, port ${where.port}`))
    return await body(async <R extends pg.QueryResultRow>(text: string, limit = timeoutMs) => {
      const { rows } = await within(limit, 'the answer', client.query<R>(text)).catch(
        fail(text.trim().split('\n')[0] ?? ''),
      )
      return rows
    })
  } finally {
    ;(client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
  }
}

const primary = 'SELECT NOT pg_is_in_recovery() AS "primary"'

export async function isPrimary(server: Server): Promise<boolean> {
  const [row] = await session(server, (query) => query<{ primary: boolean }>(primary))
  return row?.primary ?? false
}

/**
 * Leaves a shutdown and a promotion little to do: writes all dirty pages, and begins a new WAL file, since a standby that attaches
 * to a new primary is sent the current one from its start. As long as it takes, at most `timeoutMs`.
 */
export async function checkpoint(server: Server, timeoutMs: number): Promise<number> {
  const start = now()
  await session(server, async (query) => {
    await query('SELECT pg_switch_wal()', timeoutMs)
    await query('CHECKPOINT', timeoutMs)
  })
  return since(start)
}

/** Waits there for a promotion, for a second at most: PostgreSQL would not see that we have gone. */
const promotion = `DO $$ BEGIN FOR i IN 1..250 LOOP
  EXIT WHEN NOT pg_is_in_recovery(); PERFORM pg_sleep(0.004);
  END LOOP; END $$`

/**
 * Waits until PostgreSQL here takes a write and its synchronous standby has confirmed it. The time-out is on our side only:
 * a statement_timeout would end the wait for the standby and call the commit done.
 */
export async function takesWrites(
  server: Server,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  const start = now()
  const left = () => Math.max(1, timeoutMs - (now() - start))
  for (;;) {
    try {
      // One connection for all the asking, which outlives a promotion: new ones would cost PostgreSQL a process each.
      await session({ ...server, timeoutMs: Math.min(server.timeoutMs, left()) }, async (query) => {
        await until('PostgreSQL is primary', { timeoutMs: left(), everyMs: 1, signal }, async () => {
          await query(promotion, left())
          const [row] = await query<{ primary: boolean }>(primary)
          return row?.primary
        })
        await query("SELECT pg_logical_emit_message(true, 'pgcm', '')", left())
      })
      return
    } catch (error) {
      if (now() - start >= timeoutMs || signal.aborted) throw error
      await sleep(50, signal) // starting up, most likely
    }
  }
}

const transactions = `
  SELECT datname AS database, usename AS "user", state,
         CASE WHEN client_addr IS NULL THEN 'local, pid ' || pid ELSE host(client_addr) || ':' || client_port END AS client,
         (extract(epoch FROM now() - xact_start) * 1000)::float8 AS "ageMs"
    FROM pg_stat_activity
   WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
   ORDER BY xact_start LIMIT 10`

const state = `
  SELECT NOT pg_is_in_recovery() AS "primary", current_setting('server_version') AS version,
         CASE WHEN pg_is_in_recovery() THEN COALESCE(
              (SELECT received_tli FROM pg_stat_wal_receiver), (SELECT timeline_id FROM pg_control_checkpoint()))
              ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
         CASE WHEN pg_is_in_recovery() THEN COALESCE(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
              ELSE pg_current_wal_lsn() END::text AS lsn,
         CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END::text AS "replayLsn",
         CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS "replayPaused",
         CASE WHEN pg_is_in_recovery() THEN greatest(0, pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn()) END::float8
           AS "replayLagBytes",
         (SELECT sender_host FROM pg_stat_wal_receiver) AS upstream, current_setting('data_directory') AS data`

const replication = `
  SELECT application_name AS name, state, sync_state AS "syncState",
         (pg_current_wal_lsn() - replay_lsn)::float8 AS "lagBytes",
         (extract(epoch FROM replay_lag) * 1000)::float8 AS "lagMs"
    FROM pg_stat_replication ORDER BY application_name`

/** Where the primary's WAL ends, and what each standby that streams has replayed of it: bytes since the beginning. */
export interface Positions {
  lsn: number
  replayed: Map<string, number>
}

const lsns = `
  SELECT (pg_current_wal_lsn() - '0/0')::float8 AS lsn, application_name AS name, (replay_lsn - '0/0')::float8 AS replayed
    FROM (SELECT) AS always LEFT JOIN pg_stat_replication ON state = 'streaming'`

export async function positions(query: Query): Promise<Positions> {
  const rows = await query<{ lsn: number; name: string | null; replayed: number | null }>(lsns)
  const standbys = rows.flatMap(({ name, replayed }) =>
    name !== null && replayed !== null ? [[name, replayed] as const] : [],
  )
  return { lsn: rows[0]?.lsn ?? 0, replayed: new Map(standbys) }
}

const prepared = `
  SELECT gid, database, owner, (extract(epoch FROM now() - prepared) * 1000)::float8 AS "ageMs"
    FROM pg_prepared_xacts ORDER BY prepared`

/** What PostgreSQL here is and does. */
export function status(server: Server): Promise<PostgresStatus> {
  return session(server, async (query) => {
    const [row] = await query<Omit<PostgresStatus, 'role'> & { primary: boolean; data: string }>(state)
    if (!row) throw new Failed('PostgreSQL: it has no state')
    const { primary, data, ...rest } = row
    const disk = await statfs(data).catch(() => null)
    return {
      ...rest,
      ...(disk && { diskFree: disk.bavail * disk.bsize }),
      role: primary ? 'primary' : 'standby',
      replication: primary ? await query<PostgresStatus['replication'][number]>(replication) : [],
      prepared: await query<PostgresStatus['prepared'][number]>(prepared),
      longest: await query<PostgresStatus['longest'][number]>(transactions),
    }
  })
}
