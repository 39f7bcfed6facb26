/** Checks of Pacemaker, etcd and the machines. */
import type { Check } from './checks.ts'
import { fail, seconds, unless, warn } from './finding.ts'
import { clusterOf, members, primaryOf, type Survey } from './survey.ts'

const nodes = (survey: Survey) => clusterOf(survey)?.nodes ?? []

export const clusterChecks: Record<string, Check> = {
  api: (survey) => {
    const complaints = survey.seen.map(({ api: { name }, kind, error }) => {
      if (error === undefined) return undefined
      // Pacemaker has given that machine up, so no client is served there; on any other, clients must be held.
      const down = nodes(survey).some((node) => node.name === name && !node.online)
      if (down) return warn(`${name} is down, and not needed`)
      const daemon = kind === 'app' ? 'pgcm-proxy' : 'pgcm-supervise'
      return fail(
        `${name} does not answer: ${error}`,
        `Start ${daemon} there: its clients could not be held.`,
      )
    })
    return unless(complaints, `${members(survey).length} of ${survey.seen.length} machines answer`)
  },

  etcd: (survey) =>
    unless(
      [survey.etcdError !== undefined && fail(`does not answer: ${survey.etcdError}`)],
      `the primary is at ${survey.published}`,
    ),

  lock: ({ lock }) => {
    if (!lock) return unless([], 'free')
    const who = `${lock.command} (pid ${lock.pid}) on ${lock.host} since ${lock.since}`
    return [
      lock.dead
        ? warn(`held by ${who}, which was killed: its lease has to run out first`)
        : fail(`held by ${who}`, 'If that one was killed, its lease runs out within 15 s.'),
    ]
  },

  quorum: (survey) => {
    const view = clusterOf(survey)
    const online = nodes(survey).filter((node) => node.online).length
    return unless(
      [
        view === undefined && fail('no machine that answers can ask Pacemaker'),
        view !== undefined && !view.quorum && fail('the nodes that answer are not in quorum'),
      ],
      `${online} of ${nodes(survey).length} nodes are online`,
    )
  },

  fencing: (survey) =>
    unless(
      [clusterOf(survey)?.fencing === false && warn('is off: a node that hangs cannot be stopped')],
      'is on',
    ),

  maintenance: (survey, { target }) => {
    const needed = [primaryOf(survey)?.name, target?.name]
    return unless(
      [
        clusterOf(survey)?.maintenance &&
          fail('the cluster is in maintenance mode', 'Pacemaker moves nothing until that is over.'),
        ...nodes(survey).map((node) => {
          const mode = node.maintenance ? 'maintenance' : node.standby ? 'standby' : undefined
          return mode && (needed.includes(node.name) ? fail : warn)(`${node.name} is in ${mode} mode`)
        }),
      ].map((entry) => entry || undefined),
      'none',
    )
  },

  constraints: (survey) =>
    unless(
      (clusterOf(survey)?.constraints ?? []).map(
        ({ id, kind }) =>
          (kind === 'cli' &&
            fail(`${id} binds the resource to a node`, `Remove it: crm_resource --clear, or by its id.`)) ||
          (kind === 'ours' && warn(`${id} was left by a failover that was killed, and is removed first`)),
      ),
      'none left behind',
    ),

  failures: (survey, { target }) =>
    unless(
      (clusterOf(survey)?.failures ?? []).map(({ operation, node, reason }) =>
        (node === target?.name ? fail : warn)(
          `${operation} failed on ${node}${reason ? `: ${reason}` : ''}`,
          `crm_resource --cleanup --node ${node}, once the cause is cured.`,
        ),
      ),
      'none',
    ),

  clocks: (survey) =>
    unless(
      members(survey).map(
        ({ name, skewMs }) =>
          skewMs !== undefined &&
          Math.abs(skewMs) > 5000 &&
          fail(`${name} is off by ${seconds(skewMs)}`, 'The move constraint ends by the clock.'),
      ),
      'agree',
    ),
}
