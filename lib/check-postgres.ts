/** Checks of the primary and its standbys. */
import type { Check } from './checks.ts'
import { fail, seconds, unless, warn } from './finding.ts'
import { addressOf, clusterOf, members, primaryOf, streaming } from './survey.ts'

const MIB = 2 ** 20

export const postgresChecks: Record<string, Check> = {
  primary: (survey) => {
    const primary = primaryOf(survey)
    const view = clusterOf(survey)
    const address = addressOf(survey, primary)
    return unless(
      [
        !primary && fail('none that both Pacemaker and PostgreSQL call so'),
        ...members(survey).map(
          ({ name, status }) =>
            status.postgres?.role === 'primary' && name !== primary?.name && fail(`${name} writes, too`),
        ),
        primary &&
          survey.etcdError === undefined &&
          survey.published !== address &&
          fail(`${primary.name} is at ${address}, but etcd says ${survey.published ?? 'nothing'}`),
      ],
      `${primary?.name}, timeline ${primary?.status.postgres?.timeline}, epoch ${view?.epoch.promoted}`,
    )
  },

  target: (survey, { target }) => {
    if (!target) return [fail('no synchronous standby answers', '--to names another one.')]
    const row = streaming(survey).get(target.name)
    const score = clusterOf(survey)?.nodes.find((node) => node.name === target.name)?.score
    return unless(
      [
        !row && fail(`${target.name} does not stream`),
        row?.syncState === 'async' && fail(`${target.name} is asynchronous`),
        typeof score === 'number' &&
          score <= 0 &&
          fail(`${target.name} must not be promoted: score ${score}`),
      ],
      `${target.name}, ${row?.syncState}`,
    )
  },

  // The old primary stays stopped, so the new one's synchronous standbys must be among those that remain.
  spare: (survey, { target }) => {
    const count = clusterOf(survey)?.nodes.length ?? 0
    const k = count - (Math.floor(count / 2) + 1)
    const spare = [...streaming(survey).keys()].filter((name) => name !== target?.name)
    return unless(
      [
        spare.length < k &&
          fail(`the new primary's first commit waits for ${k} standby, ${spare.length} would be there`),
      ],
      spare.join(', ') || 'none is needed',
    )
  },

  lag: (survey, { target, maxLagBytes }) => {
    const postgres = target?.status.postgres
    const behind = (target && streaming(survey).get(target.name)?.lagBytes) ?? 0
    const lag = Math.max(behind, postgres?.replayLagBytes ?? 0)
    return unless(
      [
        target && !postgres && fail(`PostgreSQL on ${target.name} does not answer`),
        postgres?.replayPaused &&
          fail(`replay is paused on ${target?.name}`, 'SELECT pg_wal_replay_resume() there.'),
        lag > maxLagBytes && fail(`${target?.name} is ${lag} bytes behind, more than ${maxLagBytes}`),
      ],
      `${lag} bytes`,
    )
  },

  disk: (_, { target }) => {
    const free = target?.status.postgres?.diskFree
    const mib = `${Math.round((free ?? 0) / MIB)} MiB free on ${target?.name}`
    return unless(
      [
        free !== undefined && free < 256 * MIB && fail(mib),
        free !== undefined && free >= 256 * MIB && free < 1024 * MIB && warn(mib),
      ],
      free === undefined ? 'not reported' : mib,
    )
  },

  prepared: (survey) =>
    unless(
      (primaryOf(survey)?.status.postgres?.prepared ?? []).map((row) =>
        fail(`${row.gid} of ${row.owner} in ${row.database}, ${seconds(row.ageMs)} old`),
      ),
      'no prepared transaction',
    ),

  transactions: (survey) =>
    unless(
      (primaryOf(survey)?.status.postgres?.longest ?? [])
        .filter(({ ageMs }) => ageMs >= 1000)
        .map(({ user, database, client, ageMs, state }) =>
          warn(`${user}@${database} from ${client}: open for ${seconds(ageMs)}, ${state}`),
        ),
      'none open for a second or more',
    ),
}
