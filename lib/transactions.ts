/** The open transactions of clients: finding the long ones, and ending exactly those that somebody chose. */
import { Failed, messageOf } from './errors.ts'
import type { OpenTransaction } from './nodestatus.ts'
import { type Server, session } from './postgres.ts'

/** A backend may be in another transaction a moment later, so both of these name one. */
export interface Transaction extends OpenTransaction {
  pid: number
  /** Its xact_start, in seconds since the epoch, to the microsecond. */
  since: string
}

export interface Outcome {
  pid: number
  ended: boolean
  /** Why it was not ended; empty where it was over already. */
  error: string
}

const MOST = 500

/** Transactions of others than ourselves that are older than `ms`, the oldest first. */
export const olderThan = (server: Server, ms: number): Promise<Transaction[]> =>
  session(server, (query) =>
    query<Transaction>(`
      SELECT pid, extract(epoch FROM xact_start)::text AS since, coalesce(datname, '') AS database,
             usename AS "user", coalesce(state, 'unknown') AS state,
             CASE WHEN client_addr IS NULL THEN 'local, pid ' || pid ELSE host(client_addr) || ':' || client_port END AS client,
             round(extract(epoch FROM now() - xact_start) * 1000)::float8 AS "ageMs"
        FROM pg_stat_activity
       WHERE backend_type = 'client backend' AND usename <> current_user
             AND xact_start < now() - ${Math.round(ms)} * interval '1 ms'
       ORDER BY xact_start LIMIT ${MOST}`),
  )

/** Ends those of them that are still the same transaction when PostgreSQL looks at its backend. */
export const terminate = (
  server: Server,
  transactions: Pick<Transaction, 'pid' | 'since'>[],
): Promise<Outcome[]> =>
  session(server, async (query) => {
    const outcomes: Outcome[] = []
    for (const { pid, since } of transactions) {
      if (!Number.isInteger(pid) || !/^\d+(\.\d+)?$/.test(since))
        throw new Failed(`pid ${pid} since ${JSON.stringify(since)} is no transaction`)
      outcomes.push(
        await query<{ sent: boolean }>(`
          SELECT pg_terminate_backend(pid) AS sent FROM pg_stat_activity
           WHERE pid = ${pid} AND backend_type = 'client backend' AND extract(epoch FROM xact_start) = ${since}`).then(
          ([row]) => ({ pid, ended: row?.sent === true, error: '' }),
          (error) => ({ pid, ended: false, error: messageOf(error) }), // a superuser's, most likely
        ),
      )
    }
    return outcomes
  })
