/** A copy of the primary that takes the place of the data directory once it is complete. */
import { chown, lstat, mkdir, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { type Agent, asPostgres, besides, runTool } from './agent.ts'
import { sync } from './atomic.ts'
import { vacate } from './dataprocesses.ts'
import { Failed } from './errors.ts'
import { connection, type Theirs, walDir } from './evidence.ts'
import { type Bounds, SLOW, writeMark } from './renewal.ts'
import { sh } from './sh.ts'

export const backupCommand = (agent: Agent, address: string): string[] =>
  asPostgres(
    agent,
    ...([
      'pg_basebackup',
      `--pgdata=${besides(agent).fresh}`,
      `--dbname=${connection(agent, address)}`,
    ] as const),
    ...['--checkpoint=fast', '--wal-method=stream', '--no-password'],
  )

export const swapCommands = (agent: Agent): string[] => [
  `mv ${agent.pgdata} ${besides(agent).outdated}`,
  `mv ${besides(agent).fresh} ${agent.pgdata}`,
]

export interface Obstacle {
  why: string
  cure: string
}

const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`

async function bytesIn(path: string): Promise<number> {
  const { stdout } = await sh(['du', '-s', '-k', path], { timeoutMs: 600_000, okCodes: [0, 1] })
  return Number(stdout.split(/\s/)[0] || 0) * 1024
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  )

/** Why a base backup cannot be made here; undefined where it can. */
export async function noBackup(agent: Agent, theirs: Theirs): Promise<Obstacle | undefined> {
  const { pgdata } = agent
  const wal = await lstat(walDir(agent)).catch(() => null)
  const own = await readdir(join(pgdata, 'pg_tblspc')).catch(() => [])
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8'))
    .split('\n')
    .map((line) =>
      (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, code) =>
        String.fromCharCode(Number.parseInt(code, 8)),
      ),
    )
  const [why, option] = wal?.isSymbolicLink()
    ? [`${walDir(agent)} is a link`, ' with --waldir']
    : own.length > 0 || theirs.tablespaces.length > 0
      ? [
          'there are tablespaces',
          ' with --tablespace-mapping, or into their own directories once these are emptied',
        ]
      : mounts.some((path) => path === pgdata || path.startsWith(`${pgdata}/`))
        ? [`a file system is mounted at or in ${pgdata}`, '']
        : []
  if (why)
    return {
      why: `${why}, so where the copy goes is for you to say`,
      cure: `Move what is in ${pgdata} away, make the copy there by hand (pg_basebackup${option}), rm -f ${agent.pendingFile}, and run pgcm-rejoin again: it does the rest.`,
    }
  const needed = theirs.bytes * 1.1 + theirs.walBytes
  const free = (await freeAt(dirname(pgdata))) + (await bytesIn(besides(agent).fresh))
  return free > needed ? undefined : noSpace('a copy of the primary', needed, free, dirname(pgdata))
}

const freeAt = async (path: string) => {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}

const noSpace = (what: string, needed: number, free: number, where: string): Obstacle => ({
  why: `${what} needs about ${mib(needed)} in ${where}, and ${mib(free)} are free`,
  cure: `Make room in ${where}, then run pgcm-rejoin again.`,
})

/** Why pg_rewind would run out of space: it copies all WAL of the primary, and what its files have grown by. */
export async function noRewind(agent: Agent, theirs: Theirs): Promise<Obstacle | undefined> {
  const growth = Math.max(0, theirs.bytes - (await bytesIn(join(agent.pgdata, 'base'))))
  const needed = theirs.walBytes + growth
  const free = Math.min(await freeAt(walDir(agent)), await freeAt(agent.pgdata))
  return free > needed ? undefined : noSpace('pg_rewind', needed, free, agent.pgdata)
}

/** Why PostgreSQL would start and die: it makes a WAL file of the new timeline, and another after that. */
export async function noStart(agent: Agent, theirs: Theirs): Promise<Obstacle | undefined> {
  const needed = 2 * theirs.segment
  for (const where of [walDir(agent), agent.pgdata]) {
    const free = await freeAt(where)
    if (free < needed) return noSpace('PostgreSQL', needed, free, where)
  }
  return undefined
}

/** Which directories of the primary's tablespaces are not here: no cure would do without them. */
export async function noTablespaces(agent: Agent, theirs: Theirs): Promise<Obstacle | undefined> {
  const there = await Promise.all(theirs.tablespaces.map(exists))
  const missing = theirs.tablespaces.filter((_, index) => !there[index])
  if (missing.length === 0) return undefined
  return {
    why: `the primary has a tablespace in ${missing.join(' and ')}, which is not there on this node`,
    cure: `install -d -o ${agent.pguser} -g ${agent.pguser} -m 700 ${missing.join(' ')}`,
  }
}

/** A copy of the primary beside the old directory, which stays as it is, also where this fails. */
export async function backUp(agent: Agent, address: string, theirs: Theirs, bounds: Bounds): Promise<void> {
  const { fresh, outdated } = besides(agent)
  await vacate(agent)
  await rm(fresh, { recursive: true, force: true })
  try {
    const { uid, gid } = await userOf(agent)
    await mkdir(fresh, { mode: 0o700 })
    await chown(fresh, uid, gid)
    // Its second process, which fetches the WAL, would outlive it if it were killed.
    await runTool(backupCommand(agent, address), { ...bounds, endsAsOne: true }, SLOW)
  } catch (error) {
    // A disk that it has filled must not stay full. Of a killed one's writer nothing may be left to fill it again.
    await vacate(agent).catch(() => {})
    await rm(fresh, { recursive: true, force: true })
    if (!(error instanceof Failed)) throw error
    throw new Failed(`${error.message}; ${agent.pgdata} is as it was`, error.hint, { cause: error })
  }
  // What an earlier run kept goes first, or it would look as if this copy were in its place already.
  if (await exists(agent.pgdata)) await rm(outdated, { recursive: true, force: true })
  await writeMark(agent, 'swapping', theirs)
}

async function userOf(agent: Agent): Promise<{ uid: number; gid: number }> {
  const id = async (flag: string) => Number((await sh(['id', flag, agent.pguser])).stdout)
  return { uid: await id('-u'), gid: await id('-g') }
}

/** Is the complete copy there, beside the old directory or already in its place? */
export async function copied(agent: Agent): Promise<boolean> {
  const { fresh, outdated } = besides(agent)
  return (await exists(fresh)) || ((await exists(outdated)) && (await exists(agent.pgdata)))
}

/** Puts the complete copy into the place of the old directory. May be killed between any two of its steps. */
export async function swap(agent: Agent, theirs: Theirs): Promise<void> {
  const { fresh, outdated } = besides(agent)
  await vacate(agent) // the agent might have started the old one while the copy was made
  if (await exists(fresh)) {
    if (await exists(agent.pgdata)) await rename(agent.pgdata, outdated)
    await rename(fresh, agent.pgdata)
    await sync(dirname(agent.pgdata))
  }
  await writeMark(agent, 'ready', theirs)
}

/** What is to be removed once PostgreSQL streams. */
export async function leftovers(agent: Agent): Promise<string[]> {
  const { fresh, outdated } = besides(agent)
  const there = await Promise.all([fresh, outdated].map(exists))
  return [fresh, outdated].filter((_, index) => there[index])
}

export async function discard(agent: Agent): Promise<void> {
  for (const path of await leftovers(agent)) await rm(path, { recursive: true, force: true })
}
