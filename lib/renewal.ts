/** Bringing a data directory back to the primary's history. Killed at any moment and begun again, it ends right. */
import { readdir, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Agent, asPostgres, runTool } from './agent.ts'
import { sync, writeAtomically } from './atomic.ts'
import { vacate } from './dataprocesses.ts'
import { Failed, messageOf } from './errors.ts'
import { connection, readControl, type Theirs, walDir, waldump } from './evidence.ts'
import { complaint, sh } from './sh.ts'
import { bootId } from './wait.ts'
import { segmentOf } from './wal.ts'

/**
 * How far an earlier run came, kept in a file whose mere existence keeps the agent from starting PostgreSQL.
 * `recovering`: nothing is lost yet, the data may be looked at as if no run had been; `rewinding`: it may be half
 * rewound; `swapping`: a complete base backup lies beside it; `ready`: the data is whole, the lock file is to go.
 */
export type Stage = 'recovering' | 'rewinding' | 'swapping' | 'ready'
const stages: readonly string[] = ['recovering', 'rewinding', 'swapping', 'ready']

export interface Mark {
  stage: Stage
  /** That of the primary whose history the data is brought to; 0 where it is not known. */
  timeline: number
  /** Since it was written. What pg_rewind has written is on the disk only at its end, pg_control a little before. */
  rebooted: boolean
}

export async function readMark(agent: Agent): Promise<Mark | null> {
  const text = await readFile(agent.pendingFile, 'utf8').catch((error) => {
    if (error.code === 'ENOENT') return null
    throw new Failed(messageOf(error))
  })
  if (text === null) return null
  const [stage = '', timeline, boot] = text.trim().split(' ')
  return {
    stage: stages.includes(stage) ? (stage as Stage) : 'rewinding', // of one that cannot be read the worst is assumed
    timeline: Number(timeline) || 0,
    rebooted: boot !== bootId(),
  }
}

/** On the disk when it returns: PostgreSQL must not find the data half-done and the mark gone. */
export async function writeMark(agent: Agent, stage: Stage, { timeline }: Theirs): Promise<void> {
  await writeAtomically(agent.pendingFile, `${stage} ${timeline} ${bootId()}\n`, 0o600)
  await sync(dirname(agent.pendingFile))
}

/** The agent may start PostgreSQL from here on. The lock file goes first: while the mark stands nothing starts. */
export async function release(agent: Agent): Promise<void> {
  await rm(agent.lockFile, { force: true })
  await sync(dirname(agent.lockFile))
  await rm(agent.pendingFile, { force: true })
  await sync(dirname(agent.pendingFile))
}

export const singleUser = (agent: Agent): string[] =>
  asPostgres(
    agent,
    ...([
      'postgres',
      '--single',
      '-D',
      agent.pgdata,
      '-c',
      `config_file=${agent.config}`,
      'template1',
    ] as const),
  )

export const rewindCommand = (agent: Agent, address: string, ...more: string[]): string[] =>
  asPostgres(
    agent,
    'pg_rewind',
    `--target-pgdata=${agent.pgdata}`,
    `--source-server=${connection(agent, address)} dbname=postgres`,
    '--no-ensure-shutdown',
    ...more,
  )

/** What makes sure that the files of a rewind that nobody saw the end of are on the disk. */
export const syncCommand = (agent: Agent): string[] =>
  asPostgres(agent, 'initdb', '--sync-only', `--pgdata=${agent.pgdata}`)

/** pg_rewind says that it cannot: no common checkpoint, no checksums, WAL recycled. */
export class BeyondRewind extends Failed {}

export interface Bounds {
  timeoutMs: number
  signal: AbortSignal
}

export const SLOW = '--rewind-timeout gives it longer.'

/** The primary out of reach, a full disk, a missing right: nothing that a base backup would cure. */
const PASSING = /connect|server closed|timeout expired|No space left|permission denied|terminat/i

/** Why pg_rewind cannot; undefined where it can. Looks only. */
export async function beyondRewind(
  agent: Agent,
  address: string,
  theirs: Theirs,
  { timeoutMs, signal }: Bounds,
): Promise<string | undefined> {
  const words = rewindCommand(agent, address, '--dry-run')
  const { stdout, stderr, code } = await sh(words, { timeoutMs, signal, okCodes: [0, 1] })
  const said = complaint(stderr) || stderr.trim()
  if (code === 1 && PASSING.test(said)) throw new Failed(`pg_rewind: ${said}`)
  if (code === 1) return `pg_rewind cannot: ${said}`
  const [, common, timeline] =
    (stdout + stderr).match(/last common checkpoint at ([0-9A-F]+\/[0-9A-F]+) on timeline (\d+)/) ?? []
  if (!common) return undefined // an old primary's pg_control says that there is nothing to do: a checkpoint helps
  // Recovery begins where that checkpoint began. pg_rewind keeps the WAL from the checkpoint's record on, not before.
  const at = { timeline: Number(timeline), start: common }
  const dump = waldump(agent, await readdir(walDir(agent)), theirs.segment, at, '--limit=1')
  const { stdout: record } = await sh(dump, { timeoutMs, signal })
  const redo = record.match(/\bredo ([0-9A-F]+\/[0-9A-F]+)/)?.[1] ?? common
  const { segment, oldest } = theirs
  const needed = segmentOf(redo, segment)
  return needed < oldest && needed < segmentOf(common, segment)
    ? `pg_rewind would leave it without the WAL from ${redo} on, which the primary no longer has`
    : undefined
}

/** @throws BeyondRewind where only a base backup helps */
export async function rewind(agent: Agent, address: string, theirs: Theirs, bounds: Bounds): Promise<void> {
  await writeMark(agent, 'recovering', theirs)
  await vacate(agent) // the agent starts nothing from here on; it might have, until now
  if (!(await readControl(agent)).state.startsWith('shut down')) {
    // pg_rewind wants a server that was shut down. A recovery of its own, without anybody connected, does that.
    for (const name of ['standby.signal', 'recovery.signal'])
      await rm(join(agent.pgdata, name), { force: true })
    await runTool(singleUser(agent), { ...bounds, input: '' }, SLOW)
  }
  await rewindAgain(agent, address, theirs, bounds)
}

/** The same of what may be half rewound already: it must not be recovered, nor looked at as if it were whole. */
export async function rewindAgain(
  agent: Agent,
  address: string,
  theirs: Theirs,
  bounds: Bounds,
): Promise<void> {
  await vacate(agent)
  const beyond = await beyondRewind(agent, address, theirs, bounds)
  if (beyond) throw new BeyondRewind(beyond)
  await writeMark(agent, 'rewinding', theirs)
  const { stdout, stderr } = await runTool(rewindCommand(agent, address), bounds, SLOW)
  // Up to release 15 it believes the primary's pg_control, which is of the old timeline until a checkpoint is done.
  if (/no rewind required/.test(stdout + stderr))
    throw new Failed(
      'pg_rewind found nothing to rewind, but the histories have parted',
      'CHECKPOINT on the primary, then run pgcm-rejoin again.',
    )
  await writeMark(agent, 'ready', theirs)
}
