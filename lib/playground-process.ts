import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { until } from './wait.ts'

/** A process that cannot be mistaken for a later one with the same number. */
export interface Process {
  pid: number
  /** When it began, in clock ticks since the boot. */
  since: string
}

function statOf(pid: number): { since: string; state: string } | undefined {
  try {
    // The command's name may hold blanks and brackets; what follows the last bracket does not.
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return { state: fields[0] ?? '', since: fields[19] ?? '' }
  } catch {
    return undefined
  }
}

export function identify(pid: number): Process | undefined {
  const stat = statOf(pid)
  return stat && { pid, since: stat.since }
}

/** Whether it still runs; a zombie does not. */
export function isAlive(process_: Process | undefined): process_ is Process {
  const stat = process_ && statOf(process_.pid)
  return stat?.since === process_?.since && stat !== undefined && stat.state !== 'Z'
}

/** The processes that come from `pid`, the nearest first. */
export function descendants(pid: number): number[] {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
    const pids = children.filter(Boolean).map(Number)
    return [...pids, ...pids.flatMap(descendants)]
  } catch {
    return []
  }
}

/** The init of the container that `pid` runs: the descendant that is number 1 where it lives. */
export function initOf(pid: number): Process | undefined {
  for (const child of descendants(pid)) {
    try {
      const status = readFileSync(`/proc/${child}/status`, 'utf8')
      if (/^NSpid:\t\d+\t1$/m.test(status)) return identify(child)
    } catch {} // gone in between
  }
  return undefined
}

export function signal(process_: Process | undefined, name: NodeJS.Signals | number, group = false): void {
  if (!isAlive(process_)) return
  try {
    process.kill(group ? -process_.pid : process_.pid, name)
  } catch {} // gone in between
}

/** True once all are gone, false when `timeoutMs` have passed. */
export function gone(processes: (Process | undefined)[], timeoutMs: number): Promise<boolean> {
  const ended = until('the processes are gone', { timeoutMs, everyMs: 10 }, () => !processes.some(isAlive))
  return ended.then(
    () => true,
    () => false,
  )
}

export function remember(file: string, process_: Process): void {
  writeFileSync(file, JSON.stringify(process_))
}

/** The process that `file` names, if it still runs. */
export function recall(file: string): Process | undefined {
  try {
    const process_: Process = JSON.parse(readFileSync(file, 'utf8'))
    if (isAlive(process_)) return process_
    rmSync(file, { force: true })
  } catch {}
  return undefined
}

/** Where a container's cgroups go when no systemd gives it a scope: one directory in each hierarchy that systemd uses. */
export function makeCgroups(name: string): string[] {
  return cgroupRoots().map((root) => {
    const dir = join(root, 'pgcm-playground', name)
    mkdirSync(dir, { recursive: true })
    return dir
  })
}

/**
 * Kills what still lives in a container's cgroups: its init goes on where nspawn itself was killed, and holds the
 * container's network interface. False when something has not died within `timeoutMs`.
 */
export async function killStrays(name: string, timeoutMs: number): Promise<boolean> {
  const dirs = cgroupRoots().flatMap((root) => [
    join(root, 'pgcm-playground', name),
    join(root, 'machine.slice', `pgcm-playground-${name}.scope`),
  ])
  const strays = [...new Set(dirs.flatMap(members))].map(identify)
  for (const stray of strays) signal(stray, 'SIGKILL')
  return gone(strays, timeoutMs)
}

/** The processes in a cgroup and in those below it. */
function members(dir: string): number[] {
  try {
    const own = readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
    const below = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory())
    return [...own, ...below.flatMap((entry) => members(join(dir, entry.name)))]
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes((error as NodeJS.ErrnoException).code ?? '')) return [] // the last one has left it
    throw error
  }
}

/** Removes what `makeCgroups` and the container made. */
export function removeCgroups(name: string): void {
  for (const root of cgroupRoots()) {
    removeTree(join(root, 'pgcm-playground', name))
    const parent = join(root, 'pgcm-playground')
    if (existsSync(parent) && !readdirSync(parent, { withFileTypes: true }).some((e) => e.isDirectory()))
      removeTree(parent)
  }
}

const cgroupRoots = (): string[] =>
  ['/sys/fs/cgroup', '/sys/fs/cgroup/unified', '/sys/fs/cgroup/systemd'].filter((root) =>
    existsSync(join(root, 'cgroup.procs')),
  )

function removeTree(dir: string): void {
  if (!existsSync(dir)) return
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) removeTree(join(dir, entry.name))
  }
  try {
    rmdirSync(dir)
  } catch {} // somebody still lives in it; the next `destroy` tries again
}
