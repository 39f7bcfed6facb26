/** The playground's machines, as the tests reach them: from the host, without a shell between, in a few milliseconds. */
import { readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  addressOf,
  dirOf,
  machineDir,
  type Node,
  type Playground,
  readState,
} from '../../lib/playground-layout.ts'
import { init as runningInit, stow } from '../../lib/playground-machines.ts'
import { CommandFailed, type ShOptions, type ShResult, sh } from '../../lib/sh.ts'

export const playgroundName = process.env.TEST_PLAYGROUND ?? 'pgcm'
export const state = dirOf(playgroundName)
export const repository = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

export const nodes = ['pg01', 'pg02', 'pg03']
export const bouncers = [...nodes, 'app01']

const ground = (): Playground => {
  const found = readState(playgroundName)
  if (!found) throw new Error(`there is no playground ${playgroundName}`)
  return found
}

export const machines = (): string[] => ground().nodes

export const address = (machine: string): string => addressOf(ground(), machine as Node)

export const secret = (name: string): string =>
  readFileSync(`${state}/inventory/secrets/${name}.password`, 'utf8').trim()

/** The host's pid of a machine's init, or undefined while it is off. */
export const init = (machine: string): number | undefined => runningInit(ground(), machine as Node)?.pid

export const isOn = (machine: string): boolean => init(machine) !== undefined

/** Runs a command inside a machine. Throws `CommandFailed` unless its exit code is allowed. */
export function inside(machine: string, argv: string[] | string, options: ShOptions = {}): Promise<ShResult> {
  const pid = init(machine)
  if (pid === undefined) throw new Error(`${machine} is off`)
  const command = typeof argv === 'string' ? ['sh', '-c', argv] : argv
  const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  const enter = ['nsenter', '-t', String(pid), '-m', '-u', '-i', '-n', '-p', '-r', '-w']
  return sh([...enter, 'env', '-i', path, 'HOME=/root', 'LANG=C.UTF-8', 'NO_COLOR=1', ...command], options)
}

/** SQL as the superuser, on the machine's own PostgreSQL; rows as unaligned text. */
export async function psql(machine: string, query: string, database = 'postgres', timeoutMs = 10_000) {
  const argv = ['runuser', '-u', 'postgres', '--', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', database]
  return (await inside(machine, argv, { input: query, timeoutMs })).stdout.trim()
}

/** PGCM_TEST_* are the tests' own; the scripts refuse a PGCM_ name that they do not know. */
export const outside = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('PGCM_TEST_')),
)

/** A verb of bin/pgcm-playground for this playground. */
export function playground(verb: string, words: string[] = [], options: ShOptions = {}): Promise<ShResult> {
  // The name comes first: what follows `ssh NODE` is the machine's to read.
  const argv = [`${repository}/bin/pgcm-playground`, '--name', playgroundName, verb, ...words]
  return sh(argv, { timeoutMs: 120_000, env: outside, ...options })
}

/** Gives a machine that is off the disk of one that was never booted. */
export async function newDisk(machine: string): Promise<void> {
  await stow(ground(), machine as Node)
  for (const layer of ['upper', 'work'])
    rmSync(join(machineDir(ground(), machine as Node), layer), { recursive: true, force: true })
}

/** kill -9 of the postmaster, from inside. */
export const killPostmaster = (machine: string) =>
  inside(machine, 'kill -9 "$(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)"')

/** A signal to every process of PostgreSQL in a machine. */
export const signalPostgres = (machine: string, signal: string) =>
  inside(machine, ['pkill', `-${signal}`, '-u', 'postgres', '-x', 'postgres'], { okCodes: [0, 1] })

/** The failure of a command that has to fail. */
export async function failing(command: Promise<ShResult>): Promise<CommandFailed> {
  let result: ShResult
  try {
    result = await command
  } catch (error) {
    if (error instanceof CommandFailed) return error
    throw error
  }
  throw new Error(`did not fail: ${result.stdout}${result.stderr}`)
}
