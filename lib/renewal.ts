/** Bringing a data directory back to the primary's history. Killed at any moment and begun again, it ends right. */
import { type FileHandle, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { type Agent, asPostgres } from './agent.ts'
import { Failed } from './errors.ts'
import { connection } from './evidence.ts'
import { CommandFailed, sh } from './sh.ts'
import type { Fork } from './wal.ts'

/**
 * How far an earlier run came, kept in a file whose mere existence keeps the agent from starting PostgreSQL.
 * `recovering`: nothing is lost yet, the data may be looked at as if no run had been; `rewinding`: it may be half
 * rewound; `swapping`: a complete base backup lies beside it; `ready`: the data is whole, the lock file is to go.
 */
export type Stage = 'recovering' | 'rewinding' | 'swapping' | 'ready'
const stages: readonly string[] = ['recovering', 'rewinding', 'swapping', 'ready']

export async function readStage(agent: Agent): Promise<Stage | null> {
  const text = await readFile(agent.pendingFile, 'utf8').catch(() => null)
  if (text === null) return null
  const stage = text.trim()
  return stages.includes(stage) ? (stage as Stage) : 'rewinding' // of one that cannot be read the worst is assumed
}

async function sync(path: string): Promise<void> {
  let handle: FileHandle | undefined
  try {
    handle = await open(path)
    await handle.sync()
  } finally {
    await handle?.close()
  }
}

/** On the disk when it returns: PostgreSQL must not find the data half-done and the mark gone. */
export async function writeStage(agent: Agent, stage: Stage): Promise<void> {
  const handle = await open(`${agent.pendingFile}.new`, 'w', 0o600)
  try {
    await handle.writeFile(`${stage}\n`)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(`${agent.pendingFile}.new`, agent.pendingFile)
  await sync(dirname(agent.pendingFile))
}

/** The agent may start PostgreSQL from here on. The lock file goes first: while the mark stands nothing starts. */
export async function release(agent: Agent): Promise<void> {
  await rm(agent.lockFile, { force: true })
  await sync(dirname(agent.lockFile))
  await rm(agent.pendingFile, { force: true })
  await sync(dirname(agent.pendingFile))
}

/** Writes down the transactions behind the fork, which the rewind throws away. */
export async function keepLost(agent: Agent, timeline: number, fork: Fork): Promise<string> {
  const file = join(dirname(agent.lockFile), `lost-${new Date().toISOString().replace(/[:.]/g, '-')}.txt`)
  const wal = join(agent.pgdata, 'pg_wal')
  const words = ['--rmgr=Transaction', `--path=${wal}`, `--timeline=${timeline}`, `--start=${fork.end}`]
  const dump = asPostgres(agent, 'pg_waldump', ...words)
  await sh(['sh', '-c', 'file=$1; shift; "$@" >"$file" 2>&1; sync "$file"', 'sh', file, ...dump], {
    timeoutMs: 600_000,
  })
  return file
}

export const singleUser = (agent: Agent): string[] =>
  asPostgres(
    agent,
    'postgres',
    '--single',
    '-F',
    '-D',
    agent.pgdata,
    '-c',
    `config_file=${agent.config}`,
    'template1',
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

/** pg_rewind says that it cannot: no common checkpoint, no checksums, WAL recycled. */
export class BeyondRewind extends Failed {}

interface Bounds {
  timeoutMs: number
  signal: AbortSignal
}

/** @throws BeyondRewind where only a base backup helps */
export async function rewind(
  agent: Agent,
  address: string,
  crashed: boolean,
  { timeoutMs, signal }: Bounds,
): Promise<void> {
  await writeStage(agent, 'recovering')
  if (crashed) {
    // pg_rewind wants a server that was shut down. A recovery of its own, without anybody connected, does that.
    for (const name of ['standby.signal', 'recovery.signal'])
      await rm(join(agent.pgdata, name), { force: true })
    await sh(singleUser(agent), { timeoutMs, signal, input: '' })
  }
  try {
    await sh(rewindCommand(agent, address, '--dry-run'), { timeoutMs, signal })
  } catch (error) {
    signal.throwIfAborted()
    if (!(error instanceof CommandFailed) || error.code === null) throw error
    throw new BeyondRewind(`pg_rewind cannot: ${error.stderr.trim().split('\n').at(-1)}`, undefined, {
      cause: error,
    })
  }
  await writeStage(agent, 'rewinding')
  const { stdout, stderr } = await sh(rewindCommand(agent, address), { timeoutMs, signal })
  // Up to release 15 it believes the primary's pg_control, which is of the old timeline until a checkpoint is done.
  if (/no rewind required/.test(stdout + stderr))
    throw new Failed(
      'pg_rewind found nothing to rewind, but the histories have parted',
      'CHECKPOINT on the primary.',
    )
  await writeStage(agent, 'ready')
}

const besides = (agent: Agent, what: string) =>
  join(dirname(agent.pgdata), `${basename(agent.pgdata)}.${what}`)
export const fresh = (agent: Agent): string => besides(agent, 'rejoin')
export const outdated = (agent: Agent): string => besides(agent, 'before-rejoin')

export const backupCommand = (agent: Agent, address: string): string[] =>
  asPostgres(
    agent,
    'pg_basebackup',
    `--pgdata=${fresh(agent)}`,
    `--dbname=${connection(agent, address)}`,
    '--checkpoint=fast',
    '--wal-method=stream',
    '--no-password',
  )

/** Why a base backup cannot be made here; undefined where it can. */
export async function noBackup(agent: Agent): Promise<string | undefined> {
  const spaces = await readdir(join(agent.pgdata, 'pg_tblspc')).catch(() => [])
  if (spaces.length > 0)
    return 'there are tablespaces, and a copy of them needs a place that only you can choose'
  const { stdout } = await sh(['du', '-s', '-k', agent.pgdata], { timeoutMs: 600_000, okCodes: [0, 1] })
  const needed = Number(stdout.split(/\s/)[0] || 0) * 1024
  const { bavail, bsize } = await statfs(dirname(agent.pgdata))
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`
  return bavail * bsize > needed * 1.1
    ? undefined
    : `a copy needs about ${mib(needed * 1.1)}, and ${mib(bavail * bsize)} are free`
}

/** A copy of the primary beside the old directory, which stays as it is. */
export async function backUp(agent: Agent, address: string, { timeoutMs, signal }: Bounds): Promise<void> {
  await rm(fresh(agent), { recursive: true, force: true })
  await sh(backupCommand(agent, address), { timeoutMs, signal })
  await writeStage(agent, 'swapping')
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  )

/** Puts the complete copy into the place of the old directory. May be killed between any two of its steps. */
export async function swap(agent: Agent): Promise<void> {
  if (await exists(fresh(agent))) {
    if (await exists(agent.pgdata)) {
      await rm(outdated(agent), { recursive: true, force: true })
      await rename(agent.pgdata, outdated(agent))
    }
    await rename(fresh(agent), agent.pgdata)
    await sync(dirname(agent.pgdata))
  }
  await writeStage(agent, 'ready')
}

/** Once the new directory streams. */
export const discard = (agent: Agent): Promise<void> => rm(outdated(agent), { recursive: true, force: true })
