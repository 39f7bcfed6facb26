import { accepts, cut, end, holds, timeline } from './history.ts'
import { type Model, type Node, PRIMARY, STANDBY, type State, syncs } from './state.ts'

/** P1 and P2. A record counts as acknowledged as soon as the primary that wrote it may acknowledge it. If of two
 * acknowledged records neither one's history holds the other, a commit is lost (P1) or two have written (P2),
 * whichever came first: so acknowledging at once leaves nothing out. And a primary of a newer epoch
 * holds what the older ones have acknowledged, whether it acknowledges something itself or not. */
export function acknowledge(m: Model, t: State): void {
  t.nodes.forEach((p, w) => {
    if (p.role !== PRIMARY) return
    const record = mayAcknowledge(m, t, w)
    if (timeline(record) !== p.lock || holds(t.acked, record)) return
    if (holds(record, t.acked)) t.acked = record
    else if (timeline(record) < timeline(t.acked))
      t.broken ||= 'P2: an older primary acknowledges what the newer one does not hold'
    else t.broken ||= 'P1: a primary acknowledges without an acknowledged commit in its history'
  })
  for (const p of t.nodes) {
    if (p.role === PRIMARY && p.lock > timeline(t.acked) && !holds(p.wal, t.acked))
      t.broken ||= 'P1: a newer primary does not hold an acknowledged commit'
  }
}

/** The last record of primary `w` that `synchronous_standby_names` lets it acknowledge. */
function mayAcknowledge(m: Model, t: State, w: number): number {
  const p = t.nodes[w] as Node
  const k = m.rules.syncFromFirst ? syncs(m) : 0
  const reached: number[] = []
  const reports = p.reports.slice()
  t.nodes.forEach((n, i) => {
    const connected = n.role === STANDBY && n.follows === w && accepts(p.wal, n.wal)
    if (reports.length) {
      if (connected) reports[i] = Math.max(reports[i] as number, end(n.wal))
      reached.push(reports[i] as number)
    } else if (connected) reached.push(end(n.wal))
  })
  if (reports.some((r, i) => r !== p.reports[i])) t.nodes[w] = { ...p, reports }
  if (m.variant.sync === 'any') reached.sort((a, b) => b - a) // FIRST k: as listed
  return reached.length < k ? 0 : cut(p.wal, Math.min(end(p.wal), ...reached.slice(0, k)))
}
