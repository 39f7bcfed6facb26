/** A node's own promotion, as its agent tells it: Pacemaker says the same some tenths of a second later. */
import { join } from 'node:path'
import { readAtOnce } from './atomic.ts'
import type { ClusterView, Names, NodeView } from './cluster.ts'

/** What the agent writes once PostgreSQL has been promoted with proof, for a second or so. Only root can write there. */
const promotedFile = ({ resource }: Names) =>
  join(process.env.HA_RSCTMP ?? '/run/resource-agents', `pgcm-${resource}`, 'promoted')

/** The epoch of a promotion here that the agent has just made; null if there was none lately. */
export function promotedEpoch(names: Names): number | null {
  const epoch = readAtOnce(promotedFile(names))?.match(/^\d+ [0-9A-F]{16} (\d{1,10})\n$/)?.[1]
  return epoch === undefined ? null : Number(epoch)
}

/**
 * The view of a cluster in which `node` has just been promoted in `epoch`: the last one, changed by that. Null unless the last one
 * leaves no doubt: quorum, the node a member that ran a standby, and an epoch newer than any before.
 */
export function afterPromotion(last: ClusterView, epoch: number, node: string): ClusterView | null {
  const found = last.nodes.find(({ name }) => name === node)
  if (!last.quorum || !found?.online || found.unclean || found.role === 'Stopped') return null
  if (!(epoch > last.epoch.promoted)) return null
  const changed = (seen: NodeView): NodeView =>
    seen.name === node
      ? { ...seen, role: 'Promoted', underway: null, status: 'PRI', dataStatus: 'LATEST' }
      : { ...seen, role: seen.role === 'Promoted' ? 'Unpromoted' : seen.role }
  return {
    ...last,
    epoch: { promoted: epoch, of: { ...last.epoch.of, [node]: epoch } },
    nodes: last.nodes.map(changed),
  }
}
