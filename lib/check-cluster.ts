/** Checks of Pacemaker, etcd and the machines. */
import type { Check } from './checks.ts'
import { fail, seconds, unless, warn } from './finding.ts'
import { clusterOf, members, nameOf, primaryOf, type Survey } from './survey.ts'

const nodes = (survey: Survey) => clusterOf(survey)?.nodes ?? []

export const clusterChecks: Record<string, Check> = {
  api: (survey) => {
    const complaints = survey.seen.map((seen) => {
      const { kind, error } = seen
      if (error === undefined) return undefined
      const name = nameOf(survey, seen)
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
        ? warn(`held by ${who}, which was killed: it is taken over`)
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

  // A node that does not answer either is the business of `api`.
  nodes: (survey, { target }) => {
    const needed = [primaryOf(survey)?.name, target?.name]
    return unless(
      nodes(survey).map((node) => {
        const silent = !members(survey).some(({ name }) => name === node.name)
        const say = needed.includes(node.name) ? fail : warn
        if (node.unclean) return say(`${node.name} is unclean: Pacemaker wants it fenced`)
        if (!node.online) return silent ? undefined : say(`${node.name} is not online`)
        if (node.pending || node.shutdown)
          return say(`${node.name} is ${node.pending ? 'joining' : 'leaving'}`)
        if (node.blocked) return say(`${node.name}: Pacemaker can do nothing with PostgreSQL there`)
        return node.underway ? say(`${node.name} is ${node.underway.toLowerCase()}`) : undefined
      }),
      'at rest',
    )
  },

  fencing: (survey) => {
    const view = clusterOf(survey)
    if (view?.fencing === false) return [warn('is off: a node that hangs cannot be stopped')]
    const failed = members(survey).find(({ status }) => status.failedFencings)?.status.failedFencings ?? []
    return unless(
      [
        view?.fenceDevices.length === 0 &&
          fail('no device is started: a node that hangs cannot be stopped', 'crm_mon shows why.'),
        ...(view?.fenceDevices.length ? (view.idleFenceDevices ?? []) : []).map((id) =>
          warn(`${id} is not started`),
        ),
        ...failed.map(({ target, action, at, reason }) =>
          warn(
            `${action} of ${target} failed at ${at}${reason ? `: ${reason}` : ''}`,
            `stonith_admin --cleanup --history=${target}, once the cause is cured.`,
          ),
        ),
      ],
      `works: ${view?.fenceDevices.join(', ')}`,
    )
  },

  maintenance: (survey, { target }) => {
    const needed = [primaryOf(survey)?.name, target?.name]
    return unless(
      [
        clusterOf(survey)?.maintenance &&
          fail('the cluster is in maintenance mode', 'Pacemaker moves nothing until that is over.'),
        clusterOf(survey)?.managed === false &&
          fail('PostgreSQL is unmanaged', 'Pacemaker moves nothing until that is over.'),
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
