import { accepts, end, timeline } from './history.ts'
import {
  CALLED,
  CUT,
  type Model,
  type Node,
  PRIMARY,
  quorum,
  REWINDING,
  STANDBY,
  STOPPED,
  type State,
} from './state.ts'
import { steps } from './steps.ts'

/** Liveness: the last fault has happened, every machine is back, messages arrive, Pacemaker asks `favourite`
 * first, and a person runs pgcm-rejoin where a primary exists. What happens until a primary of the newest
 * epoch has acknowledged all it has; `steps` is -1 when there is nothing left to do and that is not so. */
export function settle(
  m: Model,
  from: State,
  favourite: number,
): { steps: number; calls: number; trace: string[]; last: State } {
  const open: Model = { ...m, epochs: 120, records: 60, variant: { ...m.variant, cibForgets: false } }
  const trace: string[] = []
  let s: State = { ...from, faults: 99 } // paid for by demotions; nothing crashes any more
  let chosen = favourite
  let calls = 0
  while (trace.length < 200 && calls < 8) {
    if (acknowledges(s)) return { steps: trace.length, calls, trace, last: s }
    const possible = new Map<string, State>()
    steps(open, s, (name, next) => possible.set(name, next))
    let name = plan(m, s, chosen).find((x) => possible.has(x))
    if (!name && !newest(s)) {
      // The candidate was refused, or never ran: its score falls, the best one's rises.
      if (calls > 0 || s.nodes[chosen]?.role !== STANDBY) chosen = best(s)
      name = [`call-above-refusal ${chosen + 1}`, `call ${chosen + 1}`].find((x) => possible.has(x))
      calls++
    }
    if (!name) break
    trace.push(name)
    s = possible.get(name) as State
    if (s.broken) throw new Error(`${s.broken}: ${trace.join(', ')}`)
  }
  return { steps: -1, calls, trace, last: s }
}

const newest = (s: State): Node | undefined =>
  s.nodes.find((n) => n.role === PRIMARY && n.lock === s.promoted)

const acknowledges = (s: State): boolean => newest(s)?.wal === s.acked && timeline(s.acked) === s.promoted

/** What is to be done, the most urgent first. */
function plan(m: Model, s: State, chosen: number): string[] {
  const to: string[] = []
  const all = (verb: string, which: (n: Node, i: number) => boolean, whom?: number) =>
    s.nodes.forEach((n, i) => {
      if (which(n, i)) to.push(whom === undefined ? `${verb} ${i + 1}` : `${verb} ${i + 1} ${whom + 1}`)
    })
  const any = () => true
  for (const verb of ['promoted', 'signal', 'publish', 'prove']) all(verb, any)
  // A primary steps down if it is not the newest, or if fewer than k others may still follow it.
  const followers = (p: Node) => s.nodes.filter((n) => n !== p && n.promise <= p.lock).length
  all('demote', (n) => n.role === PRIMARY && (n.lock !== s.promoted || followers(n) < m.nodes - quorum(m)))
  s.nodes.forEach((n, i) => {
    if (n.role === REWINDING) to.push(`rejoined ${i + 1} ${n.follows + 1}`)
  })
  const p = newest(s)
  const w = p ? s.nodes.indexOf(p) : -1
  if (p) all('rejoin', (n) => n.role === STOPPED, w)
  all('start', any)
  if (p) {
    const diverged = (n: Node) =>
      n.role === STANDBY && timeline(n.wal) < p.lock && n.promise <= p.lock && !accepts(p.wal, n.wal)
    all('crash', diverged) // stopped, to be rejoined
    all('follow', any, w)
    all('stream', any, w)
    to.push(`commit ${w + 1}`)
  } else {
    const c = s.nodes[chosen] as Node
    if (c.phase === CALLED || c.phase === CUT) {
      all('vote', any, chosen)
      to.push(`cut-self ${chosen + 1}`)
    }
  }
  return to
}

function best(s: State): number {
  const running = s.nodes.filter((n) => n.role === STANDBY)
  running.sort((a, b) => timeline(b.wal) - timeline(a.wal) || end(b.wal) - end(a.wal))
  return running[0] ? s.nodes.indexOf(running[0]) : 0
}
