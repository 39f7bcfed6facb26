/** Processes at work on the data directory, found as the agent finds its own: by what they are, not by a pid file. */
import { readdir, readFile, stat } from 'node:fs/promises'
import { type Agent, besides } from './agent.ts'
import { Failed } from './errors.ts'
import { until } from './wait.ts'

export interface Occupant {
  pid: number
  program: string
  /** Left by a pgcm-rejoin that was killed. */
  ours: boolean
}

const identity = (path: string) =>
  stat(path).then(
    ({ dev, ino }) => `${dev}:${ino}`,
    () => null,
  )

export async function occupants(agent: Agent): Promise<Occupant[]> {
  const places = [agent.pgdata, besides(agent).fresh, besides(agent).outdated]
  const homes = await Promise.all(places.map(identity))
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const found = await Promise.all(
    pids.map(async (pid): Promise<Occupant | null> => {
      const program = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trim()
      if (program === 'postgres') {
        const home = await identity(`/proc/${pid}/cwd`)
        return home !== null && homes.includes(home) ? { pid: Number(pid), program, ours: false } : null
      }
      if (program !== 'pg_rewind' && program !== 'pg_basebackup') return null
      const words = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0')
      if (!words.some((word) => places.includes(word.replace(/^(-D|--(target-)?pgdata=)/, '')))) return null
      const ours = words.some((word) => word.includes('application_name=pgcm-rejoin'))
      return { pid: Number(pid), program, ours }
    }),
  )
  return found.filter((each) => each !== null)
}

export const named = (list: Occupant[]): string =>
  list.map(({ program, pid }) => `${program} (pid ${pid})`).join(', ')

/**
 * Ends what a killed run of ours has left, and waits until nobody is at work there.
 * @throws Failed where somebody else is
 */
export async function vacate(agent: Agent, timeoutMs = 10_000): Promise<void> {
  let left: Occupant[] = []
  const empty = async () => {
    left = await occupants(agent)
    for (const { pid, ours } of left) if (ours) kill(pid)
    return left.length === 0
  }
  await until('nobody works there', { timeoutMs, everyMs: 50 }, empty).catch((cause) => {
    throw new Failed(`at work in ${agent.pgdata}: ${named(left)}`, 'Stop it, then run pgcm-rejoin again.', {
      cause,
    })
  })
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {} // gone meanwhile
}
