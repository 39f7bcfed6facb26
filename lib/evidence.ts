/** What a stopped former primary has on its disk, and what the primary says. Looks only. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Agent, asPostgres } from './agent.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { CommandFailed, complaint, sh } from './sh.ts'
import {
  type Control,
  type Fork,
  lastRecord,
  newestTimeline,
  parseControl,
  parseHistory,
  segmentNamed,
  walFile,
} from './wal.ts'

/**
 * The number in a file; null where there is no such file.
 * @throws Refused where it holds anything else; `known` is asked for what belongs there then
 */
export async function numberIn(file: string, known: () => Promise<number>): Promise<number | null> {
  const text = await readFile(file, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (text === null) return null
  if (!/^\d+$/.test(text.trim()))
    throw new Refused(
      `${file} holds ${JSON.stringify(text.slice(0, 40))} and no epoch`,
      await known().then(
        (epoch) => `As far as is known it was ${epoch}: echo ${epoch} >${file}`,
        () => undefined,
      ),
    )
  return Number(text)
}

export interface Ours {
  control: Control
  timeline: number
  last: string
  lastWhat: string
  history: Fork[]
  /** The names in pg_wal. */
  files: string[]
}

/** The data directory has WAL that cannot be read: what it holds that others lack is not to be known. */
export class Unreadable extends Failed {}

/** What pg_control has, which the WAL may be ahead of by a whole checkpoint. */
export async function readControl(agent: Agent): Promise<Control> {
  const { stdout } = await sh(asPostgres(agent, 'pg_controldata', agent.pgdata), { timeoutMs: 10_000 })
  return parseControl(stdout)
}

export const walDir = (agent: Agent): string => join(agent.pgdata, 'pg_wal')

/** A stretch of one timeline: up to where the next one begins, or to the end of the WAL. */
export interface Stretch {
  timeline: number
  start: string
  end?: string
}

/**
 * pg_waldump of a stretch of the WAL in `files`. The first and the last of them are named: without one it learns their
 * size from any, and one that was made for later holds nothing yet; with the first only it stops at the end of that.
 */
export function waldump(
  agent: Agent,
  files: string[],
  segment: number,
  { timeline, start, end }: Stretch,
  ...more: string[]
): string[] {
  const limit = end === undefined ? 'G' : walFile(timeline, end, segment)
  const own = files.filter((name) => segmentNamed(name, segment)?.timeline === timeline && name <= limit)
  const first = walFile(timeline, start, segment)
  const last = own.sort().at(-1) ?? first
  const words = [`--path=${walDir(agent)}`, `--timeline=${timeline}`, `--start=${start}`]
  if (end !== undefined) words.push(`--end=${end}`)
  return asPostgres(agent, 'pg_waldump', ...words, ...more, first, ...(last > first ? [last] : []))
}

/**
 * The stopped data directory: up to which record of which timeline it goes. pg_control alone may lag behind, so the
 * WAL itself is read to its end.
 * @throws Unreadable where that cannot be done
 */
export async function readOurs(agent: Agent, signal: AbortSignal): Promise<Ours> {
  const control = await readControl(agent)
  const files = await readdir(walDir(agent))
  let timeline = Math.max(newestTimeline(files), control.timeline)
  let history = await historyOf(agent, timeline)
  for (;;) {
    // After a crash right behind a promotion the last checkpoint is still one of the timeline before.
    const start = control.timeline === timeline ? control.redo : (history.at(-1)?.end ?? control.redo)
    const { last, said } = await lastOf(waldump(agent, files, control.segment, { timeline, start }), signal)
    if (last) return { control, timeline, last: last.lsn, lastWhat: last.what, history, files }
    // A file of a timeline that holds no record of it yet: promoted, or switched to, in the very last moment.
    const parent = history.at(-1)?.timeline
    if (timeline === control.timeline || parent === undefined)
      throw new Unreadable(`its WAL from ${start} on timeline ${timeline} cannot be read: ${said}`)
    timeline = parent
    history = await historyOf(agent, timeline)
  }
}

async function historyOf(agent: Agent, timeline: number): Promise<Fork[]> {
  const name = timeline.toString(16).toUpperCase().padStart(8, '0')
  return parseHistory(await readFile(join(walDir(agent), `${name}.history`), 'utf8').catch(() => ''))
}

async function lastOf(words: string[], signal: AbortSignal) {
  // Only the end matters, and pg_waldump always ends with an error: there is no record after the last.
  const { stdout } = await sh(['sh', '-c', '"$@" 2>&1 | tail -n 3', 'sh', ...words], {
    timeoutMs: 600_000,
    signal,
  })
  return { last: lastRecord(stdout), said: stdout.trim().split('\n').at(-1) ?? '' }
}

/** The primary, as far as rejoining depends on it. */
export interface Theirs {
  systemId: string
  timeline: number
  lsn: string
  history: Fork[]
  checksums: boolean
  /** The timeline of its last checkpoint, which pg_rewind up to release 15 goes by. */
  checkpointTimeline: number
  segment: number
  /** Its oldest WAL file, counted like segmentOf. */
  oldest: bigint
  walBytes: number
  /** All its databases. */
  bytes: number
  /** Directories of its tablespaces. */
  tablespaces: string[]
}

// Asked as the role that pg_rewind connects as, with no more rights than that needs.
const STATE = `
  SELECT json_build_object('checksums', current_setting('data_checksums') = 'on',
    'checkpointTimeline', (SELECT timeline_id FROM pg_control_checkpoint()),
    'segment', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
    'wal', (SELECT json_agg(name) FROM pg_ls_dir('pg_wal', true, false) AS name WHERE name ~ '^[0-9A-F]{24}$'),
    'bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')),
    'tablespaces', (SELECT coalesce(json_agg(pg_tablespace_location(oid)), '[]') FROM pg_tablespace
      WHERE pg_tablespace_location(oid) LIKE '/%'))`

export async function readTheirs(agent: Agent, address: string): Promise<Theirs> {
  const ask = async (where: string, command: string) => {
    const words = ['--no-psqlrc', '-At', '-F', '|', '-d', `${connection(agent, address)} ${where}`]
    const argv = asPostgres(agent, 'psql', ...words, '-c', command)
    return (await sh(argv, { timeoutMs: 15_000 })).stdout.trim()
  }
  const replication = (command: string) => ask('dbname=replication replication=true', command)
  try {
    const [systemId = '', number = '', lsn = ''] = (await replication('IDENTIFY_SYSTEM')).split('|')
    const timeline = Number(number)
    const history =
      timeline > 1
        ? parseHistory((await replication(`TIMELINE_HISTORY ${timeline}`)).replace(/^[^|]*\|/, ''))
        : []
    const { wal, ...state } = JSON.parse(await ask('dbname=postgres', STATE))
    const numbers = (wal as string[]).flatMap((name) => segmentNamed(name, state.segment)?.number ?? [])
    const oldest = numbers.reduce((least, each) => (each < least ? each : least))
    const walBytes = numbers.length * state.segment
    return { ...state, systemId, timeline, lsn, history, oldest, walBytes, bytes: Number(state.bytes) }
  } catch (cause) {
    const said = cause instanceof CommandFailed ? complaint(cause.stderr) : ''
    throw new Refused(
      `the primary at ${address} does not answer: ${said || messageOf(cause)}`,
      'Is it up, reachable from here on its port, and does its pg_hba.conf let this node in?',
      { cause },
    )
  }
}

// In front of the agent's own words, which win.
export const connection = (agent: Agent, address: string): string =>
  `connect_timeout=5 host=${address} port=${agent.pgport} user=${agent.repuser} ${agent.conninfo} application_name=pgcm-rejoin`
