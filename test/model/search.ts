import { type Model, pack, type State, unpack } from './state.ts'
import { steps } from './steps.ts'

export type Found = { broken: string; trace: string[] }
export type Explored = {
  states: number
  depth: number
  /** Every reachable state within the model's bounds has been seen. */
  complete: boolean
  seconds: number
  found?: Found
}

export type Bounds = {
  /** Stop at this many states, or this deep. */
  states: number
  depth?: number
  /** Stop only at this promise; states that break another one lead nowhere. */
  wanted?: string
  visit?: (s: State, nth: number, trace: () => string[]) => void
}

/** Breadth first from `from`, until a promise breaks, a bound is met, or nothing is left. */
export function breadthFirst(m: Model, from: State, bounds: Bounds): Explored {
  const began = Date.now()
  const scratch = new Uint16Array(pack(from, new Uint16Array(512)))
  const known = new Rows(scratch.length, bounds.states)
  const parents = new Int32Array(bounds.states).fill(-1)
  const trace = (nth: number): string[] => {
    const names: string[] = []
    for (let at = nth, up = parents[at] as number; up >= 0; at = up, up = parents[at] as number) {
      names.unshift(between(m, known.get(up), known.get(at)))
    }
    return names
  }
  let found: Found | undefined
  let depth = 0
  let level = 1
  pack(from, scratch)
  known.add(scratch)
  let at = 0
  for (; at < known.size && !found && known.size < bounds.states; at++) {
    if (at === level) {
      if (++depth === bounds.depth) break
      level = known.size
    }
    const s = unpack(m, known.get(at))
    bounds.visit?.(s, at, () => trace(at))
    steps(m, s, (name, next) => {
      if (found || known.size === bounds.states) return
      if (next.broken) {
        if (next.broken.startsWith(bounds.wanted ?? ''))
          found = { broken: next.broken, trace: [...trace(at), name] }
        return
      }
      pack(next, scratch)
      if (known.add(scratch)) parents[known.size - 1] = at
    })
  }
  const seconds = (Date.now() - began) / 1000
  return {
    states: known.size,
    depth,
    complete: !found && at === known.size,
    seconds,
    ...(found && { found }),
  }
}

/** Random walks of at most `length` steps, `total` steps in all; the same seed walks the same way. */
export function randomWalks(m: Model, from: State, seed: number, length: number, total: number): Explored {
  const began = Date.now()
  const random = mulberry32(seed)
  let states = 0
  let found: Found | undefined
  while (states < total && !found) {
    let s = from
    const path: string[] = []
    while (path.length < length && !found) {
      const possible: [string, State][] = []
      steps(m, s, (name, next) => possible.push([name, next]))
      const pick = possible[Math.floor(random() * possible.length)]
      if (!pick) break
      path.push(pick[0])
      s = pick[1]
      states++
      if (s.broken) found = { broken: s.broken, trace: path }
    }
  }
  const seconds = (Date.now() - began) / 1000
  return { states, depth: length, complete: false, seconds, ...(found && { found }) }
}

/** The state after the steps of this comma list. One that is not possible is an error: a story cannot lie. */
export function play(m: Model, from: State, story: string): State {
  return story.split(', ').reduce((s, wanted) => {
    const possible = new Map<string, State>()
    steps(m, s, (name, next) => possible.set(name, next))
    const next = possible.get(wanted)
    if (!next) throw new Error(`"${wanted}" is not possible here, but ${[...possible.keys()].join(', ')}`)
    return next
  }, from)
}

function between(m: Model, from: Uint16Array, to: Uint16Array): string {
  const row = new Uint16Array(to.length)
  let label = ''
  steps(m, unpack(m, from), (name, next) => {
    pack(next, row)
    if (!label && row.every((x, i) => x === to[i])) label = name
  })
  return label
}

/** A set of equally long rows that keeps the order they came in: the search's queue and its memory in one. */
class Rows {
  size = 0
  private readonly rows: Uint16Array
  private readonly slots: Int32Array
  private readonly width: number

  constructor(width: number, limit: number) {
    this.width = width
    this.rows = new Uint16Array(width * limit)
    this.slots = new Int32Array(2 ** Math.ceil(Math.log2(limit * 1.5))).fill(-1)
  }

  get(i: number): Uint16Array {
    return this.rows.subarray(i * this.width, (i + 1) * this.width)
  }

  /** Whether `row` is new. */
  add(row: Uint16Array): boolean {
    const { rows, slots, width } = this
    const mask = slots.length - 1
    for (let slot = hash(row) & mask; ; slot = (slot + 1) & mask) {
      const at = slots[slot] as number
      if (at < 0) {
        slots[slot] = this.size
        rows.set(row, this.size++ * width)
        return true
      }
      let i = 0
      while (i < width && rows[at * width + i] === row[i]) i++
      if (i === width) return false
    }
  }
}

/** FNV-1a, with a finish that spreads the low bits. */
function hash(row: Uint16Array): number {
  let h = 2166136261
  for (let i = 0; i < row.length; i++) h = Math.imul(h ^ (row[i] as number), 16777619)
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d)
  return h ^ (h >>> 13)
}

function mulberry32(seed: number): () => number {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) | 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
