/** What a stopped former primary has on its disk, and what the primary says. Looks only. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Agent, asPostgres } from './agent.ts'
import { Failed, messageOf } from './errors.ts'
import { sh } from './sh.ts'
import {
  type Control,
  type Fork,
  type Histories,
  lastRecord,
  newestTimeline,
  parseControl,
  parseHistory,
  walFile,
} from './wal.ts'

/** The number in a file; null where there is no such file. */
export async function numberIn(file: string): Promise<number | null> {
  const text = await readFile(file, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (text === null) return null
  if (!/^\d+$/.test(text.trim()))
    throw new Failed(`${file} holds ${JSON.stringify(text.slice(0, 40))}, no number`)
  return Number(text)
}

export interface Ours {
  control: Control
  timeline: number
  last: string
  lastWhat: string
  history: Fork[]
}

/**
 * The stopped data directory: up to which record of which timeline it goes. pg_control alone may lag behind the
 * WAL by a whole checkpoint, so the WAL itself is read to its end.
 */
export async function readOurs(agent: Agent, signal: AbortSignal): Promise<Ours> {
  const wal = join(agent.pgdata, 'pg_wal')
  const { stdout } = await sh(asPostgres(agent, 'pg_controldata', agent.pgdata), {
    timeoutMs: 10_000,
    signal,
  })
  const control = parseControl(stdout)
  const timeline = Math.max(newestTimeline(await readdir(wal)), control.timeline)
  const name = timeline.toString(16).toUpperCase().padStart(8, '0')
  const history = parseHistory(await readFile(join(wal, `${name}.history`), 'utf8').catch(() => ''))
  // After a crash right behind a promotion the last checkpoint is still one of the timeline before.
  const start = control.timeline === timeline ? control.redo : (history.at(-1)?.end ?? control.redo)
  const words = asPostgres(
    agent,
    'pg_waldump',
    `--path=${wal}`,
    `--timeline=${timeline}`,
    `--start=${start}`,
    // Without a file pg_waldump learns their size from any, and one that was made for later says nothing yet.
    walFile(timeline, start, control.segment),
  )
  // Only the end matters, and pg_waldump always ends with an error: there is no record after the last.
  const { stdout: dump } = await sh(['sh', '-c', '"$@" 2>&1 | tail -n 3', 'sh', ...words], {
    timeoutMs: 600_000,
    signal,
  })
  const last = lastRecord(dump)
  if (!last) throw new Failed(`the WAL from ${start} on timeline ${timeline} cannot be read: ${dump.trim()}`)
  return { control, timeline, last: last.lsn, lastWhat: last.what, history }
}

/** The primary's word, by the replication protocol: no more rights are needed than a standby has. */
export async function readTheirs(agent: Agent, address: string): Promise<Histories['theirs']> {
  const ask = async (command: string) => {
    const conninfo = `${connection(agent, address)} dbname=replication replication=true`
    const words = asPostgres(agent, 'psql', '--no-psqlrc', '-At', '-F', '|', '-d', conninfo, '-c', command)
    return (await sh(words, { timeoutMs: 15_000 })).stdout.trim()
  }
  try {
    const [systemId = '', number = '', lsn = ''] = (await ask('IDENTIFY_SYSTEM')).split('|')
    const timeline = Number(number)
    const history =
      timeline > 1 ? parseHistory((await ask(`TIMELINE_HISTORY ${timeline}`)).replace(/^[^|]*\|/, '')) : []
    return { systemId, timeline, lsn, history }
  } catch (cause) {
    throw new Failed(`the primary at ${address} does not answer: ${messageOf(cause)}`, undefined, { cause })
  }
}

export const connection = (agent: Agent, address: string): string =>
  `host=${address} port=${agent.pgport} user=${agent.repuser} ${agent.conninfo} application_name=pgcm-rejoin`
