/** Checks of the PgBouncers, without which clients would notice. */
import type { Check } from './checks.ts'
import { fail, seconds, unless, warn } from './finding.ts'
import type { NodeStatus } from './nodestatus.ts'
import { addressOf, isOrphan, members, primaryOf, type Survey } from './survey.ts'

type Pooler = NonNullable<NodeStatus['pgbouncer']>
const poolers = (survey: Survey) =>
  members(survey).flatMap(({ name, status }) =>
    status.pgbouncer ? [{ name, pause: status.pause, ...status.pgbouncer }] : [],
  )
const each = (
  survey: Survey,
  judge: (name: string, database: Pooler['databases'][number]) => ReturnType<Check>[number] | false,
) => poolers(survey).flatMap(({ name, databases }) => databases.map((database) => judge(name, database)))

export const poolerChecks: Record<string, Check> = {
  poolers: (survey) => {
    const address = addressOf(survey, primaryOf(survey))
    return unless(
      [
        ...members(survey).map(
          ({ name, status }) =>
            !status.pgbouncer &&
            fail(`the one on ${name} does not answer${status.errors.map((e) => `: ${e}`)[0] ?? ''}`),
        ),
        ...poolers(survey).map(
          ({ name, paused, pause }) =>
            paused &&
            // What a killed run has paused is let go first.
            (isOrphan(survey, pause) ? warn : fail)(
              `the one on ${name} is paused${pause ? ` by ${pause.owner || 'somebody'} until ${pause.expiresAt}` : ''}`,
            ),
        ),
        ...each(
          survey,
          (name, { name: database, host }) =>
            address !== undefined &&
            host !== address &&
            fail(`the one on ${name} sends ${database} to ${host}`),
        ),
      ],
      `${poolers(survey).length} point at the primary`,
    )
  },

  pooling: (survey) => {
    const bySession = (what: string, name: string) =>
      fail(`${what} on ${name} is pooled by session`, 'A pause would wait until every client has left.')
    const databases = each(
      survey,
      (name, { name: database, poolMode }) => poolMode === 'session' && bySession(database, name),
    )
    const users = poolers(survey).flatMap(({ name, databases, sessionPools = [] }) =>
      sessionPools
        .filter(
          (pool) => !databases.some((each) => each.poolMode === 'session' && pool.endsWith(`@${each.name}`)),
        )
        .map((pool) => bySession(pool, name)),
    )
    return unless([...databases, ...users], 'by transaction')
  },

  logins: (survey) =>
    unless(
      poolers(survey).map(
        ({ name, logins = 0 }) =>
          logins > 0 &&
          warn(
            `${logins} server ${logins === 1 ? 'login is' : 'logins are'} under way on ${name}`,
            'A pause waits for their end; where they never end, SHOW SERVERS shows which host hangs.',
          ),
      ),
      'none under way',
    ),

  timeouts: (survey, { pauseExpiryMs }) =>
    unless(
      poolers(survey).flatMap(({ name, queryWaitTimeoutMs: wait = 0, serverLoginRetryMs: retry = 0 }) => [
        wait > 0 &&
          wait <= pauseExpiryMs &&
          fail(
            `query_wait_timeout on ${name}, ${seconds(wait)}, is not above the pause-expiry, ${seconds(pauseExpiryMs)}`,
            'PgBouncer would cut off clients that wait.',
          ),
        retry > 1000 &&
          fail(
            `server_login_retry on ${name} is ${seconds(retry)}`,
            'Set 0.1: after one failed login its clients get errors for that long.',
          ),
      ]),
      'clients may wait longer than a pause can last',
    ),
}
