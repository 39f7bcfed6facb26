import { existsSync, readFileSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { Failed, Refused } from './errors.ts'
import { places } from './playground-layout.ts'
import { follow, say } from './playground-progress.ts'
import { sh } from './sh.ts'

/** What a playground needs to know of the machine it is to run on. */
export interface Host {
  uid: number
  /** ID of /etc/os-release. */
  os: string
  apt: boolean
  freeMemoryMiB: number
  freeDiskMiB: number
}

/** The commands a playground calls, and the Debian packages they come from. */
export const needed: Record<string, string> = {
  mmdebstrap: 'mmdebstrap',
  'systemd-nspawn': 'systemd-container',
  'ansible-playbook': 'ansible',
  nft: 'nftables',
  ip: 'iproute2',
  ssh: 'openssh-client',
  'ssh-keygen': 'openssh-client',
  rsync: 'rsync',
  flock: 'util-linux',
  npm: 'npm',
}

const memoryMiB = { machine: 550, spare: 500 }
const diskMiB = { image: 1500, machine: 900 }

function freeDisk(path: string): number {
  const there = existsSync(path) ? path : dirname(path)
  const { bavail, bsize } = statfsSync(there)
  return Math.floor((bavail * bsize) / 2 ** 20)
}

export function probe(): Host {
  const read = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : '')
  return {
    uid: process.getuid?.() ?? -1,
    os: read('/etc/os-release').match(/^ID="?(\w+)/m)?.[1] ?? process.platform,
    apt: onPath('apt-get'),
    freeMemoryMiB: Math.floor(
      Number(read('/proc/meminfo').match(/^MemAvailable:\s+(\d+)/m)?.[1] ?? 0) / 1024,
    ),
    freeDiskMiB: freeDisk(places.state),
  }
}

/** Refuses a machine that cannot carry `booting` more machines, `fresh` of them without a disk yet. */
export function judge(host: Host, booting: number, fresh: number, image: boolean): void {
  if (host.uid !== 0) throw new Refused('the playground boots machines, which only root may', 'Use sudo.')
  if (host.os !== 'debian' || !host.apt) {
    throw new Refused(
      `the playground needs Debian 12 or 13 with apt, and this is ${host.os}`,
      'Use a Debian machine or VM; vagrant/ boots the same cluster elsewhere.',
    )
  }
  const memory = booting * memoryMiB.machine + memoryMiB.spare
  if (booting && host.freeMemoryMiB < memory) {
    throw new Refused(
      `${booting} machines need ${memory} MiB of memory, and ${host.freeMemoryMiB} MiB are free`,
      'Free some, or take a larger machine.',
    )
  }
  const disk = fresh * diskMiB.machine + (image ? 0 : diskMiB.image)
  if (host.freeDiskMiB < disk) {
    throw new Refused(
      `${places.state} needs ${disk} MiB of disk, and ${host.freeDiskMiB} MiB are free`,
      'Free some, or mount a larger disk there.',
    )
  }
}

function onPath(command: string, path = process.env.PATH ?? ''): boolean {
  return [...path.split(delimiter), '/usr/sbin', '/sbin'].some((dir) => dir && existsSync(join(dir, command)))
}

/** The packages still to be installed. */
export const missing = (found: (command: string) => boolean = onPath): string[] => [
  ...new Set(Object.entries(needed).flatMap(([command, name]) => (found(command) ? [] : [name]))),
]

/** Installs what is missing of `needed`, and only that. */
export async function installPackages(signal?: AbortSignal): Promise<void> {
  const names = missing()
  if (names.length === 0) return
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  await sh(['apt-get', 'update', '-qq'], { env, timeoutMs: 180_000, ...(signal && { signal }) })
  for (const name of names) {
    const { stdout } = await sh(['apt-cache', 'policy', name])
    if (!/Candidate: [^(\s]/.test(stdout)) {
      throw new Refused(
        `apt has no package ${name}`,
        "Look at this machine's apt settings: Debian's main has it.",
      )
    }
  }
  say(`installing ${names.join(' ')}`)
  await follow(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...names], {
    what: 'apt-get install',
    logFile: join(places.cache, 'apt.log'),
    timeoutMs: 600_000,
    env,
    ...(signal && { signal }),
    show: (line) => line.match(/^Setting up (mmdebstrap|systemd-container|ansible|nftables) /)?.[0].trim(),
  })
  const still = missing()
  if (still.length) throw new Failed(`apt-get install gave no ${still.join(', ')}`)
}

const inotify = '/proc/sys/fs/inotify/max_user_instances'
const inotifyBefore = '/run/pgcm-playground.inotify'

/** Linux gives root 128 inotify instances, and a machine's systemd takes about 15: the eighth machine would not boot. */
export function raiseLimits(file = inotify, before = inotifyBefore): void {
  const now = readFileSync(file, 'utf8').trim()
  if (Number(now) >= 1024) return
  try {
    writeFileSync(file, '1024')
  } catch {
    return // this machine is a container itself, and its host's limit has to do
  }
  if (!existsSync(before)) writeFileSync(before, now)
}

/** Puts back what `raiseLimits` changed. */
export function restoreLimits(file = inotify, before = inotifyBefore): void {
  if (!existsSync(before)) return
  writeFileSync(file, readFileSync(before, 'utf8'))
  rmSync(before)
}
