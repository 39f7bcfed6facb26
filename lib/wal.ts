/** PostgreSQL's write-ahead log, as far as one must read it to know whether two histories have parted. */

/** `0/3000148` as a number. */
export function lsn(text: string): bigint {
  const [, high, low] = text.match(/^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i) ?? []
  if (!high || !low) throw new Error(`${JSON.stringify(text)} is no LSN`)
  return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`)
}

/** Until where a timeline goes in somebody's history. */
export interface Fork {
  timeline: number
  end: string
}

/** A timeline history file: each ancestor, oldest first, and where it was left. */
export function parseHistory(text: string): Fork[] {
  return text.split('\n').flatMap((line) => {
    const [, timeline, end] = line.match(/^\s*(\d+)\s+([0-9A-F]+\/[0-9A-F]+)/i) ?? []
    return timeline && end ? [{ timeline: Number(timeline), end }] : []
  })
}

/** What pg_controldata says. */
export interface Control {
  systemId: string
  /** Such as `shut down` or `in production`: the latter, of a server that does not run, is a crash. */
  state: string
  timeline: number
  checkpoint: string
  redo: string
  /** Bytes of a WAL file. */
  segment: number
  checksums: boolean
  walLogHints: boolean
}

export function parseControl(text: string): Control {
  const value = (label: string): string => {
    const line = text.split('\n').find((each) => each.startsWith(`${label}:`))
    if (!line) throw new Error(`pg_controldata does not say ${label}`)
    return line.slice(label.length + 1).trim()
  }
  return {
    systemId: value('Database system identifier'),
    state: value('Database cluster state'),
    timeline: Number(value("Latest checkpoint's TimeLineID")),
    checkpoint: value('Latest checkpoint location'),
    redo: value("Latest checkpoint's REDO location"),
    segment: Number(value('Bytes per WAL segment')),
    checksums: value('Data page checksum version') !== '0',
    walLogHints: value('wal_log_hints setting') === 'on',
  }
}

/** The name of the WAL file that holds a position. */
export function walFile(timeline: number, position: string, segment: number): string {
  const number = lsn(position) / BigInt(segment)
  const perHigh = 0x1_0000_0000n / BigInt(segment)
  const hex = (part: bigint) => part.toString(16).toUpperCase().padStart(8, '0')
  return hex(BigInt(timeline)) + hex(number / perHigh) + hex(number % perHigh)
}

/** Which WAL file holds a position, counted from 0 whatever the timeline. */
export const segmentOf = (position: string, segment: number): bigint => lsn(position) / BigInt(segment)

/** The same of a file by its name; null where the name is not that of a WAL file. */
export function segmentNamed(name: string, segment: number): { timeline: number; number: bigint } | null {
  const [, timeline, high, low] = name.match(/^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/) ?? []
  if (!timeline || !high || !low) return null
  const number = BigInt(`0x${high}`) * (0x1_0000_0000n / BigInt(segment)) + BigInt(`0x${low}`)
  return { timeline: Number.parseInt(timeline, 16), number }
}

/** Where a WAL file begins. */
export function startOf(number: bigint, segment: number): string {
  const position = number * BigInt(segment)
  const hex = (half: bigint) => half.toString(16).toUpperCase()
  return `${hex(position >> 32n)}/${hex(position & 0xffffffffn)}`
}

/** The position of the last record that pg_waldump printed, and what it was; undefined where it printed none. */
export function lastRecord(waldump: string): { lsn: string; what: string } | undefined {
  const records = [...waldump.matchAll(/^rmgr: (\S+).*?\blsn: ([0-9A-F]+\/[0-9A-F]+),.*?desc: (.*)$/gim)]
  const [, rmgr, position, what] = records.at(-1) ?? []
  return position ? { lsn: trim(position), what: `${rmgr} ${what?.split(';')[0]?.trim()}` } : undefined
}

/** `0/03000148` -> `0/3000148`, as PostgreSQL writes it elsewhere. */
const trim = (position: string) =>
  position
    .split('/')
    .map((part) => part.replace(/^0+(?=.)/, ''))
    .join('/')

/** The timeline of the newest WAL file among the names in pg_wal; 0 where there is none. */
export function newestTimeline(names: string[]): number {
  const timelines = names
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .map((name) => Number.parseInt(name.slice(0, 8), 16))
  return Math.max(0, ...timelines)
}

/** Our data and the primary's, as far as rejoining depends on it. */
export interface Histories {
  ours: {
    systemId: string
    timeline: number
    /** Where our last record begins. */
    last: string
    history: Fork[]
  }
  theirs: { systemId: string; timeline: number; lsn: string; history: Fork[] }
}

export type Relation =
  | { kind: 'clean'; why: string; fork?: Fork }
  | { kind: 'diverged'; why: string; fork: Fork }
  | { kind: 'foreign'; why: string }

/**
 * Whether our history is a part of the primary's. A record of ours belongs to both histories if it begins before
 * the point where they part: up to there both are the same records, so none reaches over it.
 */
export function compare({ ours, theirs }: Histories): Relation {
  if (ours.systemId !== theirs.systemId)
    return { kind: 'foreign', why: `system identifier ${ours.systemId}, the primary has ${theirs.systemId}` }
  const theirEnd = (timeline: number) =>
    timeline === theirs.timeline ? theirs.lsn : theirs.history.find((fork) => fork.timeline === timeline)?.end
  const left = theirEnd(ours.timeline)
  if (left !== undefined) {
    const fork = { timeline: ours.timeline, end: left }
    const where =
      ours.timeline === theirs.timeline ? 'the primary is at' : 'the primary left that timeline at'
    const words = `timeline ${ours.timeline}, last record at ${ours.last}; ${where} ${left}`
    return lsn(ours.last) < lsn(left)
      ? { kind: 'clean', why: words, fork }
      : { kind: 'diverged', why: words, fork }
  }
  // Our timeline is none of the primary's: the newest one that both have been on is where they parted.
  for (const { timeline, end } of [...ours.history].reverse()) {
    const other = theirEnd(timeline)
    if (other === undefined) continue
    const fork = { timeline, end: lsn(end) < lsn(other) ? end : other }
    return {
      kind: 'diverged',
      why: `timeline ${ours.timeline} is not in the primary's history; both were on timeline ${timeline} until ${fork.end}`,
      fork,
    }
  }
  return { kind: 'foreign', why: `timeline ${ours.timeline} has no ancestor in the primary's history` }
}
