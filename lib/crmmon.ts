/** Reads a cluster out of what crm_mon and the CIB say. */
import type { ClusterView, Constraint, Names, NodeView } from './cluster.ts'
import { Failed } from './errors.ts'
import { type Element, find, parseXml } from './xml.ts'

/** The id of the constraint by which migrate moves the clone. */
export const moveId = (clone: string): string => `pgcm-move-${clone}`

const roles: Record<string, string> = { Master: 'Promoted', Slave: 'Unpromoted' }

function score(text: string | undefined): number | null {
  const infinity = text?.match(/^([+-]?)INFINITY$/)
  if (infinity) return infinity[1] === '-' ? -1_000_000 : 1_000_000
  return text !== undefined && /^[+-]?\d+$/.test(text) ? Number(text) : null
}

function constraintsOf(cib: Element, clone: string): Constraint[] {
  return find(cib, 'configuration', 'constraints', 'rsc_location').map((location) => {
    const { id = '', rsc = '', node, role, score: own } = location.attributes
    const rule = find(location, 'rule')[0]
    const uname =
      rule && find(rule, 'expression').find((e) => e.attributes.attribute === '#uname')?.attributes.value
    const end = rule && find(rule, 'date_expression')[0]?.attributes.end
    const said = rule?.attributes.role ?? role ?? null
    return {
      id,
      resource: rsc,
      node: node ?? uname ?? null,
      score: own ?? rule?.attributes.score ?? null,
      role: said && (roles[said] ?? said),
      expires: end ? new Date(end) : null,
      kind: id === moveId(clone) ? 'ours' : id.startsWith('cli-') ? 'cli' : 'other',
    }
  })
}

function nodesOf(monitor: Element, { resource, clone }: Names): NodeView[] {
  const attributes = new Map(
    find(monitor, 'node_attributes', 'node').map((node) => {
      const pairs = find(node, 'attribute').map(({ attributes: { name = '', value = '' } }) => [name, value])
      return [node.attributes.name, Object.fromEntries(pairs) as Record<string, string>]
    }),
  )
  const instances = find(monitor, 'resources', 'clone')
    .filter((c) => c.attributes.id === clone)
    .flatMap((c) => find(c, 'resource'))
    .filter((r) => r.attributes.id?.replace(/:\d+$/, '') === resource)
  const history = find(monitor, 'node_history', 'node')

  return find(monitor, 'nodes', 'node').map(({ attributes: node }) => {
    const { name = '', id = '' } = node
    const on = (element: Element) => find(element, 'node').some((n) => n.attributes.name === name)
    const instance: Record<string, string> = instances.find(on)?.attributes ?? {}
    const of = attributes.get(name) ?? {}
    const past = history.find((h) => h.attributes.name === name)
    const counted = past && find(past, 'resource_history').find((h) => h.attributes.id === resource)
    const role = instance.role ?? 'Stopped'
    return {
      name,
      id,
      online: node.online === 'true',
      standby: node.standby === 'true' || node.standby_onfail === 'true',
      maintenance: node.maintenance === 'true',
      pending: node.pending === 'true',
      unclean: node.unclean === 'true',
      shutdown: node.shutdown === 'true',
      role: roles[role] ?? role,
      underway: instance.pending ?? null,
      failed: instance.failed === 'true',
      blocked: instance.blocked === 'true',
      managed: instance.managed !== 'false',
      status: of[`${resource}-status`] ?? null,
      dataStatus: of[`${resource}-data-status`] ?? null,
      score: score(of[`master-${resource}`]),
      baseline: of[`${resource}-master-baseline`] ?? null,
      failCount: score(counted?.attributes['fail-count']) ?? 0,
      attributes: of,
    }
  })
}

/**
 * The view that `crm_mon --output-as=xml` (of either release) and the CIB it was made from give together.
 * Throws `Failed` where either is not what it should be: a half-read cluster is none.
 */
export function view(crmMonXml: string, cibXml: string, names: Names): ClusterView {
  const monitor = parseXml(crmMonXml, 'pacemaker-result')
  const status = find(monitor, 'status')[0]
  // crm_mon says "OK" beside its <errors> when it could not connect.
  if (status?.attributes.code !== '0' || find(status, 'errors').length > 0) {
    const said = crmMonXml.match(/<error>([^<]*)/)?.[1] ?? status?.attributes.message
    throw new Failed(`crm_mon failed: ${said?.trim() ?? 'it gave no status'}`)
  }
  const cib = parseXml(cibXml, 'cib')
  const { admin_epoch, epoch, num_updates } = cib.attributes
  if (!admin_epoch || !epoch || !num_updates) throw new Failed('the CIB has no version')

  const dc = find(monitor, 'summary', 'current_dc')[0]?.attributes
  const options = find(monitor, 'summary', 'cluster_options')[0]?.attributes
  const clone = find(monitor, 'resources', 'clone').find((c) => c.attributes.id === names.clone)
  const devices = [
    ...find(monitor, 'resources', 'resource'),
    ...find(monitor, 'resources', 'clone', 'resource'),
  ]
  const fencers = devices
    .map(({ attributes }) => attributes)
    .filter(({ resource_agent }) => resource_agent?.startsWith('stonith:'))
  const nodes = nodesOf(monitor, names)
  const promoted = nodes.flatMap(({ name, attributes }) => {
    const epoch = attributes[`${names.resource}-epoch`] ?? ''
    return /^\d{1,10}$/.test(epoch) ? [[name, Number(epoch)] as const] : []
  })
  return {
    quorum: dc?.with_quorum === 'true',
    dc: dc?.name ?? null,
    version: dc?.version ?? '',
    maintenance: options?.['maintenance-mode'] === 'true',
    fencing: options?.['stonith-enabled'] === 'true' || options?.['fencing-enabled'] === 'true',
    fenceDevices: fencers.filter(({ role }) => role === 'Started').map(({ id = '' }) => id),
    idleFenceDevices: fencers.filter(({ role }) => role !== 'Started').map(({ id = '' }) => id),
    managed: clone?.attributes.managed !== 'false' && clone?.attributes.maintenance !== 'true',
    cib: `${admin_epoch}.${epoch}.${num_updates}`,
    epoch: { promoted: Math.max(0, ...promoted.map(([, value]) => value)), of: Object.fromEntries(promoted) },
    nodes,
    constraints: constraintsOf(cib, names.clone),
    failures: find(monitor, 'failures', 'failure').map(({ attributes: failure }) => ({
      resource: failure.op_key?.replace(/_[a-z-]+_\d+$/, '') ?? failure.id ?? '',
      operation: failure.task ?? failure.op_key ?? '',
      node: failure.node ?? '',
      status: failure.exitstatus ?? '',
      reason: failure.exitreason ?? '',
      code: Number(failure.exitcode ?? 0),
      at: failure['last-rc-change'] ?? '',
    })),
  }
}
