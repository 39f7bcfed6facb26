import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, openSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { Failed } from './errors.ts'
import type { Node, Playground } from './playground-layout.ts'
import * as layout from './playground-layout.ts'
import { lock } from './playground-lock.ts'
import type { Process } from './playground-process.ts'
import * as processes from './playground-process.ts'
import { sh } from './sh.ts'
import { until } from './wait.ts'

export type Power = 'on' | 'off' | 'unplugged'

const poweroff = 34 + 4 // SIGRTMIN+4 asks systemd for an orderly shutdown

const fileOf = (ground: Playground, node: Node, name: string) => join(layout.machineDir(ground, node), name)
const runnerOf = (ground: Playground, node: Node) => processes.recall(fileOf(ground, node, 'pid'))

/** The init of a running machine. */
export function init(ground: Playground, node: Node): Process | undefined {
  const runner = runnerOf(ground, node)
  return runner && processes.initOf(runner.pid)
}

export function power(ground: Playground, node: Node): Power {
  if (runnerOf(ground, node)) return 'on'
  return existsSync(fileOf(ground, node, 'unplugged')) ? 'unplugged' : 'off'
}

/** One change of a machine's power at a time, whoever asks for it. */
async function alone<T>(ground: Playground, node: Node, body: () => Promise<T>): Promise<T> {
  const name = layout.machineName(ground, node)
  const held = await lock(name, `${node} is being switched on or off`, 60)
  try {
    return await body()
  } finally {
    held.release()
  }
}

/** The machine's disk: the image below, its own changes above. */
async function mount(ground: Playground, node: Node): Promise<string> {
  const [upper, work, root] = ['upper', 'work', 'root'].map((name) => fileOf(ground, node, name)) as [
    string,
    string,
    string,
  ]
  if (existsSync(join(root, 'usr'))) return root
  for (const dir of [upper, work, root]) mkdirSync(dir, { recursive: true, mode: 0o755 })
  const options = `lowerdir=${ground.image},upperdir=${upper},workdir=${work}`
  await sh(['mount', '-t', 'overlay', 'overlay', '-o', options, root])
  return root
}

function writeIdentity(ground: Playground, node: Node, root: string): void {
  const write = (path: string, text: string, mode = 0o644) => {
    mkdirSync(join(root, path, '..'), { recursive: true, mode: mode === 0o600 ? 0o700 : 0o755 })
    writeFileSync(join(root, path), text, { mode })
  }
  if (!existsSync(join(root, 'etc/machine-id')))
    write('etc/machine-id', `${randomBytes(16).toString('hex')}\n`)
  write('etc/hostname', `${node}\n`)
  // Only at the first boot: from then on the playbook's lines in it must survive a power loss.
  if (!existsSync(join(fileOf(ground, node, 'upper'), 'etc/hosts')))
    write('etc/hosts', layout.hostsFile(ground))
  write('etc/systemd/network/10-host0.network', layout.networkFile(ground, node))
  write('root/.ssh/authorized_keys', readFileSync(join(ground.dir, 'ssh_key.pub'), 'utf8'), 0o600)
}

/**
 * What starts systemd-nspawn. Each machine needs cgroups of its own, or the systemds of two machines would
 * share theirs: a scope where systemd runs, made by hand elsewhere. 133 is nspawn's word for "reboot".
 */
function command(ground: Playground, node: Node, root: string): string[] {
  const name = layout.machineName(ground, node)
  const nspawn = [
    ...['systemd-nspawn', '--quiet', `--directory=${root}`, `--machine=${name}`, `--hostname=${node}`],
    ...['--register=no', '--keep-unit', '--timezone=off', '--resolv-conf=off', '--link-journal=no'],
    ...[`--network-bridge=${layout.bridgeOf(ground.name)}`, '--setenv=SYSTEMD_COLORS=0'],
    ...[`--bind-ro=${join(ground.dir, 'fence')}:/srv/playground`, '--boot'],
  ]
  const scope = ['systemd-run', '--scope', '--quiet', '--collect', '--slice=machine.slice']
  const enter =
    'for dir in $PGCM_CGROUPS; do echo $$ >"$dir/cgroup.procs"; done; unset PGCM_CGROUPS; exec "$@"'
  const start = existsSync('/run/systemd/system')
    ? [...scope, '--property=Delegate=yes', `--unit=pgcm-playground-${name}`, ...nspawn]
    : ['sh', '-c', enter, 'sh', ...nspawn]
  return ['sh', '-c', 'while "$@"; [ $? -eq 133 ]; do :; done', 'sh', ...start]
}

async function bootLocked(ground: Playground, node: Node): Promise<void> {
  if (runnerOf(ground, node)) return
  await killStrays(ground, node)
  const root = await mount(ground, node)
  writeIdentity(ground, node, root)
  const consoleFile = fileOf(ground, node, 'console.log')
  const console = openSync(consoleFile, 'w', 0o600)
  const [file, ...args] = command(ground, node, root) as [string, ...string[]]
  const cgroups = existsSync('/run/systemd/system')
    ? []
    : processes.makeCgroups(layout.machineName(ground, node))
  const child = spawn(file, args, {
    ...{ cwd: '/', detached: true, stdio: ['ignore', console, console] },
    env: { PATH: process.env.PATH, PGCM_CGROUPS: cgroups.join(' ') },
  })
  child.unref()
  const runner = child.pid ? processes.identify(child.pid) : undefined
  if (!runner) throw new Failed(`${node}: systemd-nspawn did not start`)
  processes.remember(fileOf(ground, node, 'pid'), runner)
  await until(`${node} has an init`, { timeoutMs: 15_000, everyMs: 20 }, () => {
    if (init(ground, node)) return true
    if (processes.isAlive(runner)) return false
    throw wentOff(ground, node, 'did not boot')
  })
}

function wentOff(ground: Playground, node: Node, what: string): Failed {
  const file = fileOf(ground, node, 'console.log')
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  // Where /run is on a disk, nspawn's last word is about its own directory there, and never the reason.
  const last = lines.filter((line) => !line.includes('Attempted to remove disk file system')).at(-1)
  return new Failed(`${node} ${what}: ${last}`, `Its console is in ${file}.`)
}

/** Switches a machine on; one that runs is left alone. */
export const boot = (ground: Playground, node: Node): Promise<void> =>
  alone(ground, node, () => bootLocked(ground, node))

/** Takes the power away and comes back when nothing of the machine runs any more. */
async function cutPower(ground: Playground, node: Node): Promise<void> {
  const runner = runnerOf(ground, node)
  if (!runner) return killStrays(ground, node)
  const init = processes.initOf(runner.pid)
  const nspawns = processes
    .descendants(runner.pid)
    .filter((pid) => pid !== init?.pid)
    .map(processes.identify)
  processes.signal(runner, 'SIGKILL') // first, so that it boots nothing again
  processes.signal(init, 'SIGKILL')
  // The kernel ends every process of the machine before its init is gone.
  const nothingLeft = () => processes.gone([runner, init], 10_000)
  if (!init) processes.signal(runner, 'SIGKILL', true)
  if (!(await nothingLeft())) throw new Failed(`${node} does not die`)
  // nspawn tidies up after itself if it is given the time.
  if (!(await processes.gone(nspawns, 3000))) for (const left of nspawns) processes.signal(left, 'SIGKILL')
  await processes.gone(nspawns, 2000)
  rmSync(fileOf(ground, node, 'pid'), { force: true })
}

/** Ends what lives on where somebody killed nspawn, and waits for its end of the cable to go. */
async function killStrays(ground: Playground, node: Node): Promise<void> {
  const name = layout.machineName(ground, node)
  if (!(await processes.killStrays(name, 10_000))) throw new Failed(`${node} does not die`)
  const cable = `/sys/class/net/vb-${name}`
  await until(
    `the interface vb-${name} is gone`,
    { timeoutMs: 10_000, everyMs: 20 },
    () => !existsSync(cable),
  )
}

/** Pulls the plug: the machine stays off, whatever a fence agent asks, until `plugIn`. */
export const unplug = (ground: Playground, node: Node): Promise<void> => {
  writeFileSync(fileOf(ground, node, 'unplugged'), '')
  return alone(ground, node, () => cutPower(ground, node))
}

export const plugIn = (ground: Playground, node: Node): Promise<void> =>
  alone(ground, node, () => {
    rmSync(fileOf(ground, node, 'unplugged'), { force: true })
    return bootLocked(ground, node)
  })

/** As a fence device does it: off at once, and nothing said about the plug. */
export const off = (ground: Playground, node: Node): Promise<void> =>
  alone(ground, node, () => cutPower(ground, node))

/** An orderly shutdown; after `timeoutMs` the power goes. */
export const shutDown = (ground: Playground, node: Node, timeoutMs: number): Promise<void> =>
  alone(ground, node, async () => {
    const runner = runnerOf(ground, node)
    if (!runner) return
    processes.signal(processes.initOf(runner.pid), poweroff)
    if (!(await processes.gone([runner], timeoutMs))) await cutPower(ground, node)
    rmSync(fileOf(ground, node, 'pid'), { force: true })
  })

/** Unmounts the disk of a machine that is off, and removes what it left on the host. */
export async function stow(ground: Playground, node: Node): Promise<void> {
  const root = fileOf(ground, node, 'root')
  if (existsSync(join(root, 'usr'))) await sh(['umount', root])
  const name = layout.machineName(ground, node)
  processes.removeCgroups(name)
  // nspawn leaves this one behind where it was killed itself.
  if (existsSync(`/run/systemd/nspawn/propagate/${name}`)) rmdirSync(`/run/systemd/nspawn/propagate/${name}`)
}

/** Resolves when sshd answers. */
export async function answers(ground: Playground, node: Node, timeoutMs: number): Promise<void> {
  await until(`sshd answers on ${node}`, { timeoutMs, everyMs: 100 }, () => {
    if (!runnerOf(ground, node)) throw wentOff(ground, node, 'went off while it booted')
    return greets(layout.addressOf(ground, node))
  })
}

function greets(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection({ host, port: 22 })
    const end = (answer: boolean) => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(1000, () => end(false))
    socket.on('error', () => end(false))
    socket.on('data', (data) => end(data.toString().startsWith('SSH-')))
  })
}
