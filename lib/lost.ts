/** What a diverged node has that the primary has not: read before it is thrown away, and written down. */
import { open } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Agent } from './agent.ts'
import { sync } from './atomic.ts'
import { Failed } from './errors.ts'
import { type Ours, type Stretch, waldump } from './evidence.ts'
import { complaint, sh, shown } from './sh.ts'
import { type Fork, lsn, segmentNamed, segmentOf, startOf } from './wal.ts'

export interface Lost {
  /** Transactions that committed behind the fork. */
  commits: string[]
  /** The records of commits and aborts, as pg_waldump prints them. */
  records: string
  /** What cannot be told any more. */
  gap?: string
}

/** Our way from the fork on, one stretch for each timeline that this node has been on since. */
export function stretches(ours: Ours, fork: Fork): Stretch[] {
  const way = [...ours.history, { timeline: ours.timeline, end: undefined }]
  const from = way.slice(way.findIndex(({ timeline }) => timeline === fork.timeline))
  return from.map(({ timeline, end }, index) => ({
    ...{ timeline, start: index === 0 ? fork.end : (from[index - 1]?.end ?? fork.end) },
    ...(end !== undefined && { end }),
  }))
}

const words = (agent: Agent, { files, control }: Ours, stretch: Stretch): string[] =>
  waldump(agent, files, control.segment, stretch, '--rmgr=Transaction')

/** @throws Failed where the WAL is not read up to the very record at which it was found to end */
export async function readLost(agent: Agent, ours: Ours, fork: Fork, signal: AbortSignal): Promise<Lost> {
  const { segment } = ours.control
  let records = ''
  let gap: string | undefined
  for (const stretch of stretches(ours, fork)) {
    const start = readableFrom(ours.files, segment, stretch)
    if (start === undefined || start !== stretch.start)
      gap = `the WAL of timeline ${stretch.timeline} from ${stretch.start} to ${start ?? stretch.end ?? 'its end'} is gone: what was committed there cannot be told`
    if (start === undefined) continue
    const read = await sh(words(agent, ours, { ...stretch, start }), {
      ...{ timeoutMs: 600_000, signal, okCodes: [0, 1], maxBytes: 2 ** 29 },
    })
    records += read.stdout
    if (stretch.end === undefined && !reaches(ours.last, read))
      throw new Failed(
        `cannot tell what would be lost: pg_waldump stopped before ${ours.last}: ${complaint(read.stderr) || 'no reason'}`,
      )
  }
  return { commits: commitsIn(records), records, ...(gap && { gap }) }
}

/**
 * Whether pg_waldump has read as far as a record. It ends with an error where there are no more, but not where these fill their
 * file and the next one could not be made: a disk that was full.
 */
export function reaches(record: string, { code, stderr }: { code: number; stderr: string }): boolean {
  const reached = stderr.match(/error in WAL record at ([0-9A-F]+\/[0-9A-F]+)/)?.[1]
  return code === 0 || (reached !== undefined && lsn(reached) >= lsn(record))
}

export const counted = ({ length }: string[]): string =>
  length === 1 ? '1 transaction' : `${length} transactions`

/** The transactions that committed, from pg_waldump's lines; the second phase of a prepared one names it in its text. */
export const commitsIn = (records: string): string[] =>
  [...records.matchAll(/^rmgr: Transaction .*?tx: +(\d+),.*? desc: COMMIT(?:_PREPARED (\d+):)?/gm)].map(
    ([, own = '', prepared]) => prepared ?? own,
  )

/** From where on all WAL files of a stretch are there; undefined where its last is not. */
function readableFrom(names: string[], segment: number, { timeline, start }: Stretch): string | undefined {
  const there = new Set(
    names.flatMap((name) => {
      const file = segmentNamed(name, segment)
      return file?.timeline === timeline ? [file.number] : []
    }),
  )
  const first = segmentOf(start, segment)
  if (there.has(first)) return start
  const later = [...there].filter((number) => number > first).sort((a, b) => (a < b ? -1 : 1))[0]
  return later === undefined ? undefined : startOf(later, segment)
}

export const lostCommands = (agent: Agent, ours: Ours, fork: Fork): string[] => {
  const file = lostFile(agent)
  return stretches(ours, fork).map((stretch) => `${shown(words(agent, ours, stretch))} >>${file}`)
}

const lostFile = (agent: Agent) =>
  join(dirname(agent.lockFile), `lost-${new Date().toISOString().replace(/[:.]/g, '-')}.txt`)

/** Writes it beside the lock file. On the disk when it returns. */
export async function keepLost(agent: Agent, fork: Fork, lost: Lost, who: string): Promise<string> {
  const file = lostFile(agent)
  const text = [
    `# pgcm-rejoin, ${new Date().toISOString()}: ${who}`,
    `# The histories parted at ${fork.end} of timeline ${fork.timeline}. Behind it ${counted(lost.commits)} committed here: ${lost.commits.join(' ')}`,
    ...(lost.gap ? [`# ${lost.gap}`] : []),
    lost.records,
  ].join('\n')
  const handle = await open(file, 'wx', 0o600)
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await sync(dirname(file))
  return file
}
