/** WAL as a tree: a node's WAL is the path from the root to one record, named by a small number. Two nodes
 * hold the same data exactly when they hold the same number, and a prefix test is a walk up the tree. */

const parent = [0]
const epochs = [0]
const lengths = [0]
const children = new Map<number, number>()

/** The empty WAL. */
export const EMPTY = 0

/** The WAL `wal` with one more record, written by `writer` on timeline `epoch`. */
export function append(wal: number, epoch: number, writer: number): number {
  const key = (wal * 256 + epoch) * 8 + writer
  let id = children.get(key)
  if (id === undefined) {
    id = parent.length
    parent.push(wal)
    epochs.push(epoch)
    lengths.push(end(wal) + 1)
    children.set(key, id)
  }
  return id
}

/** Timeline of the last record. */
export const timeline = (wal: number): number => epochs[wal] as number

/** Where the WAL ends: its LSN, counted in records. */
export const end = (wal: number): number => lengths[wal] as number

/** The first `length` records of `wal`. */
export function cut(wal: number, length: number): number {
  let at = wal
  while (end(at) > length) at = parent[at] as number
  return at
}

/** Whether `wal` holds all of `part`. */
export const holds = (wal: number, part: number): boolean => cut(wal, end(part)) === part

/** PostgreSQL's own test, all it has, when a standby with `mine` asks a server with `theirs` for more: my
 * timeline is in their history, and I am not past the point where they left it. */
export function accepts(theirs: number, mine: number): boolean {
  let at = theirs
  while (timeline(at) > timeline(mine)) at = parent[at] as number
  return timeline(at) === timeline(mine) && end(mine) <= end(at)
}
