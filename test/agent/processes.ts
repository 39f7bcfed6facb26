import { readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'

/** Processes whose working directory is in `dir`. */
export function processesIn(dir: string): { pid: number; comm: string; cwd: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const cwd = readlinkSync(`/proc/${name}/cwd`)
        if (!cwd.startsWith(`${dir}/`)) return []
        return [{ pid: Number(name), comm: readFileSync(`/proc/${name}/comm`, 'utf8').trim(), cwd }]
      } catch {
        return [] // it has ended
      }
    })
}

/** Each PostgreSQL of ours leads a process group. Another pid that a row made up leads none, and is left alone. */
export function endGroup(leader: number | undefined): void {
  if (leader && leader > 1 && leader !== process.pid) kill(-leader, 'SIGKILL')
}

/** Sends a signal to a process that may be gone already, or to a group. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  if (!(Math.abs(pid) > 1)) throw new Error(`${pid} is no process of ours`)
  try {
    process.kill(pid, signal)
  } catch {} // it is
}

/** Ends what runs in any world below `home`, and removes it: for the very end. */
export function sweep(home: string): void {
  for (const { pid } of processesIn(home)) kill(pid, 'SIGKILL')
  rmSync(home, { recursive: true, force: true, maxRetries: 5 })
}
