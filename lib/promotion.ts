/** A node's own promotion, as the CIB itself tells it: crm_mon says the same a tenth of a second later. */
import type { ClusterView, Names, NodeView } from './cluster.ts'
import { type Element, find, parseXml } from './xml.ts'

/**
 * Whether a node's promotion is half told: its agent says PRI and Pacemaker has not written down yet that the promotion is done,
 * or the other way round. A look at the text, since it is made again and again in the moment that counts.
 */
export function promotionUnderWay(cibXml: string, { resource }: Names, node: string): boolean {
  const state = cibXml
    .split('<node_state ')
    .find((each) => each.slice(0, each.indexOf('>')).includes(`uname="${node}"`))
  const said = state?.includes(`name="${resource}-status" value="PRI"`) ?? false
  const last = state?.match(new RegExp(`<lrm_rsc_op id="${resource}_last_0"[^>]*>`))?.[0] ?? ''
  const done = (/ operation="promote"/.test(last) && / rc-code="0"/.test(last)) || / rc-code="8"/.test(last)
  return said !== done
}

/** 2.1 says "true" and "online", 3.0 since when; 0 and "false" are the opposite. */
const isSo = (value: string | undefined) => value === 'true' || value === 'online' || Number(value) > 0

/** The last thing that Pacemaker knows of the instance there is a promotion that succeeded. */
function lastWasPromotion(state: Element, resource: string): boolean {
  const ops = find(state, 'lrm', 'lrm_resources', 'lrm_resource')
    .filter(({ attributes }) => attributes.id?.replace(/:\d+$/, '') === resource)
    .flatMap((each) => find(each, 'lrm_rsc_op'))
    .map(({ attributes }) => attributes)
    .sort((a, b) => Number(a['call-id']) - Number(b['call-id']))
  const last = ops.at(-1)
  return last?.operation === 'promote' && last['rc-code'] === '0' && last['op-status'] === '0'
}

/**
 * The view of a cluster in which `node` has just been promoted: the last one, changed by that. Null unless the CIB leaves no doubt:
 * quorum, the node a member, its last action a promotion that succeeded, PRI and LATEST by its own word, and an epoch
 * newer than any before.
 */
export function afterPromotion(
  last: ClusterView,
  cibXml: string,
  { resource }: Names,
  node: string,
): ClusterView | null {
  const cib = parseXml(cibXml, 'cib')
  const states = find(cib, 'status', 'node_state')
  const state = states.find(({ attributes }) => attributes.uname === node)
  const { in_ccm, crmd, join, expected } = state?.attributes ?? {}
  const member = isSo(in_ccm) && isSo(crmd) && join === 'member' && expected === 'member'
  if (!state || cib.attributes['have-quorum'] !== '1' || !member) return null
  if (!lastWasPromotion(state, resource)) return null
  const attributesOf = (each: Element): Record<string, string> =>
    Object.fromEntries(
      find(each, 'transient_attributes', 'instance_attributes', 'nvpair').map(
        ({ attributes: { name = '', value = '' } }) => [name, value],
      ),
    )
  const attributes = attributesOf(state)
  if (attributes[`${resource}-status`] !== 'PRI' || attributes[`${resource}-data-status`] !== 'LATEST')
    return null
  const epoch = Number(attributes[`${resource}-epoch`])
  const others = states
    .filter((each) => each !== state)
    .map((each) => Number(attributesOf(each)[`${resource}-epoch`] ?? 0))
  if (!(epoch > Math.max(last.epoch.promoted, ...others))) return null
  const changed = (seen: NodeView): NodeView =>
    seen.name === node
      ? {
          ...seen,
          ...{
            online: true,
            unclean: false,
            role: 'Promoted',
            underway: null,
            status: 'PRI',
            dataStatus: 'LATEST',
          },
          attributes: { ...seen.attributes, ...attributes },
        }
      : { ...seen, role: seen.role === 'Promoted' ? 'Unpromoted' : seen.role }
  const { admin_epoch, epoch: cibEpoch, num_updates } = cib.attributes
  return {
    ...last,
    quorum: true,
    cib: `${admin_epoch}.${cibEpoch}.${num_updates}`,
    epoch: { promoted: epoch, of: { ...last.epoch.of, [node]: epoch } },
    nodes: last.nodes.map(changed),
  }
}
