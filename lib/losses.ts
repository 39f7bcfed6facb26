/** What a cluster can lose, and how crm_simulate is told so. Nothing here asks or acts. */
import type { Names } from './cluster.ts'
import { Failed } from './errors.ts'
import { type Element, find, parseXml } from './xml.ts'

/** What runs where, as crm_simulate prints it. */
export interface Standing {
  /** Members that are online. */
  online: string[]
  /** Where the promoted instance of the clone runs; null if nowhere. */
  primary: string | null
  running: { resource: string; node: string; promoted: boolean; ours: boolean }[]
}

/**
 * One thing that is lost: a machine; or an instance of a resource, which crashes and may be started again where it was,
 * or which no longer runs there whatever Pacemaker tries.
 */
export interface Loss {
  node: string
  /** The instance; absent for a machine. */
  resource?: string
  /** The operation that finds out. */
  operation?: string
  forGood?: boolean
}

const roles = ['Promoted', 'Master']

/** Instances below a list of resources: clones, groups and bundles hold others. */
function instances(of: Element, clone: string, inside = false): { element: Element; inside: boolean }[] {
  return Object.entries(of.children).flatMap(([name, elements]) =>
    elements.flatMap((element) =>
      name === 'resource'
        ? [{ element, inside }]
        : instances(element, clone, inside || element.attributes.id === clone),
    ),
  )
}

/**
 * The cluster as `crm_simulate --output-as=xml` has it: before its simulation, or after it.
 * @throws Failed where it printed something else
 */
export function standing(
  printed: string,
  when: 'cluster_status' | 'revised_cluster_status',
  names: Names,
): Standing {
  const status = find(parseXml(printed, 'pacemaker-result'), when)[0]
  if (!status) throw new Failed(`crm_simulate printed no ${when}`)
  const online = find(status, 'nodes', 'node')
    .map(({ attributes }) => attributes)
    .filter(({ type, online, unclean }) => type === 'member' && online === 'true' && unclean === 'false')
    .map(({ name = '' }) => name)
  const running = find(status, 'resources')
    .flatMap((resources) => instances(resources, names.clone))
    .filter(({ element: { attributes } }) => attributes.active === 'true' && attributes.orphaned !== 'true')
    .flatMap(({ element, inside }) =>
      find(element, 'node').map(({ attributes: { name = '' } }) => {
        const { id = '', role = '', failed } = element.attributes
        const ours = inside && id.replace(/:\d+$/, '') === names.resource
        return { resource: id, node: name, promoted: roles.includes(role) && failed !== 'true', ours }
      }),
    )
    .filter(({ node }) => online.includes(node))
  return { online, running, primary: running.find(({ ours, promoted }) => ours && promoted)?.node ?? null }
}

/** The recurring monitor of an instance, by the history of its node; a probe where it has none. */
function monitorOf(cib: Element, resource: string, node: string): string {
  const recurring = find(cib, 'status', 'node_state')
    .filter(({ attributes }) => attributes.uname === node)
    .flatMap((state) => find(state, 'lrm', 'lrm_resources', 'lrm_resource'))
    .filter(({ attributes }) => attributes.id === resource)
    .flatMap((history) => find(history, 'lrm_rsc_op'))
    .map(({ attributes }) => attributes)
    .filter(({ operation, interval = '0' }) => operation === 'monitor' && interval !== '0')
    .sort((a, b) => Number(b['call-id']) - Number(a['call-id']))
  return `${resource}_monitor_${recurring[0]?.interval ?? 0}`
}

/** Every single loss. */
export function singleLosses(cib: Element, { online, running }: Standing): Loss[] {
  const of = running.flatMap(({ resource, node }) =>
    [false, true].map((forGood) => ({ resource, node, operation: monitorOf(cib, resource, node), forGood })),
  )
  return [...online.map((node) => ({ node })), ...of]
}

/** Every two of them that are two things: an instance goes with its machine. */
export function doubleLosses(singles: Loss[]): Loss[][] {
  const twice = (a: Loss, b: Loss) =>
    a.node === b.node && (!a.resource || !b.resource || a.resource === b.resource)
  return singles.flatMap((a, i) => singles.slice(i + 1).flatMap((b) => (twice(a, b) ? [] : [[a, b]])))
}

/** How many nodes are left, and whether that is a majority of all that are configured. */
export function nodesLeft(cib: Element, { online }: Standing, lost: Loss[]) {
  const all = find(cib, 'configuration', 'nodes', 'node').filter(
    ({ attributes }) => attributes.type !== 'remote',
  )
  const left = online.length - lost.filter(({ resource }) => resource === undefined).length
  return { left, of: all.length, quorum: left > all.length / 2 }
}

/** For people. */
export const lossText = ({ node, resource, forGood }: Loss): string =>
  resource === undefined ? `machine ${node}` : `${resource} on ${node}${forGood ? ' for good' : ''}`

// 7: not running. 4: what our agent says where PostgreSQL must not be started again; Pacemaker takes it as that node's own.
const event = ({ node, resource, operation, forGood }: Loss): string[] =>
  resource === undefined ? ['--node-fail', node] : ['--op-inject', `${operation}@${node}=${forGood ? 4 : 7}`]

/** What Pacemaker does about it. Its outcome is in the file: with events, the XML that 3.0.0 prints ends before it. */
export const loseCommand = (cib: string, lost: Loss[], outcome: string): string[] => [
  ...['crm_simulate', '--quiet', '--simulate', '--xml-file', cib, '--save-output', outcome],
  ...lost.flatMap(event),
]

/** What it does next, and how that ends. */
export const settleCommand = (cib: string): string[] => [
  ...['crm_simulate', '--simulate', '--output-as=xml', '--xml-file', cib],
]

/** Offline, with CIB_file. */
export const scoreCommand = (resource: string, node: string, score: number): string[] => [
  ...['crm_attribute', '--lifetime', 'reboot', '--node', node],
  ...['--name', `master-${resource}`, `--update=${score}`],
]

/** Offline, with CIB_file. */
export const withoutCommand = (constraint: string): string[] => [
  ...['cibadmin', '--delete', '--force', '--xpath', `//constraints/*[@id='${constraint}']`],
]
