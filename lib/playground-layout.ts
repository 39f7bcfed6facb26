import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Refused } from './errors.ts'

/** Every machine a playground may have, with the last part of its address. The host end of the bridge is .1. */
export const hosts = { pg01: 11, pg02: 12, pg03: 13, app01: 21 } as const
export type Node = keyof typeof hosts

export const places = { state: '/var/lib/pgcm-playground', cache: '/var/cache/pgcm-playground' } as const

/** One playground as its state file remembers it. */
export interface Playground {
  name: string
  /** Its directory: machines, keys, inventory. Not in the state file. */
  dir: string
  /** A /24, such as `172.28.33.0/24`. */
  subnet: string
  release: 'trixie' | 'bookworm'
  nodes: Node[]
  /** The cached image under the machines. */
  image: string
  /** What the last playbook that ended well was made of; absent until one did. */
  provisioned?: string
}

export const dirOf = (name: string): string => join(places.state, name)
export const machineDir = (ground: Pick<Playground, 'dir'>, node: Node): string =>
  join(ground.dir, 'machines', node)
/** systemd-nspawn's name of the machine, unlike any other playground's. */
export const machineName = (ground: Pick<Playground, 'name'>, node: Node): string => `${ground.name}-${node}`
/** Interface names have 15 characters at most, hence names of 10. */
export const bridgeOf = (name: string): string => `pgcm-${name}`

/** The address of a node, or of the host end of the bridge. */
export function addressOf(ground: Pick<Playground, 'subnet'>, node: Node | 'host'): string {
  return `${ground.subnet.replace(/\.0\/24$/, '')}.${node === 'host' ? 1 : hosts[node]}`
}

export function checkName(name: string): void {
  if (!/^[a-z][a-z0-9-]{0,9}$/.test(name)) {
    throw new Refused(
      `${JSON.stringify(name)} cannot be a playground's name`,
      'Give up to 10 of a-z, 0-9 and -, a letter first.',
    )
  }
}

/** The nodes that `word` can mean. */
export function nodeOf(ground: Pick<Playground, 'name' | 'nodes'>, word: string | undefined): Node {
  const found = ground.nodes.find((node) => node === word)
  if (found) return found
  throw new Refused(
    word ? `there is no node ${word} in the playground ${ground.name}` : 'which node?',
    `It has ${ground.nodes.join(', ')}.`,
  )
}

const stateFile = (dir: string) => join(dir, 'state.json')

/** The playground that lives in `dir`, or undefined where there is none. Refuses a directory that is not ours. */
export function readState(name: string, dir = dirOf(name)): Playground | undefined {
  if (!existsSync(dir) || readdirSync(dir).length === 0) return undefined
  let state: Omit<Playground, 'dir'>
  try {
    state = JSON.parse(readFileSync(stateFile(dir), 'utf8'))
    if (state.name !== name || !Array.isArray(state.nodes)) throw new Error('not a playground')
  } catch (cause) {
    throw new Refused(
      `${dir} is there, but was not made by this script`,
      'Move it away, or give another --name.',
      {
        cause,
      },
    )
  }
  return { ...state, dir }
}

export function writeState(ground: Playground): void {
  const { dir, ...state } = ground
  writeFileSync(`${stateFile(dir)}.new`, `${JSON.stringify(state, null, 2)}\n`)
  renameSync(`${stateFile(dir)}.new`, stateFile(dir))
}

/** The playgrounds on this machine; a directory that is not one is left out. */
export function allPlaygrounds(base: string = places.state): Playground[] {
  if (!existsSync(base)) return []
  return readdirSync(base).flatMap((name) => {
    try {
      return readState(name, join(base, name)) ?? []
    } catch {
      return []
    }
  })
}

/** /etc/hosts of every machine. No 127.0.1.1: corosync, etcd and PostgreSQL must find the real address behind a name. */
export function hostsFile(ground: Pick<Playground, 'subnet'>): string {
  const lines = ['127.0.0.1 localhost', '::1 localhost ip6-localhost ip6-loopback']
  for (const node of Object.keys(hosts) as Node[]) lines.push(`${addressOf(ground, node)} ${node}`)
  return `${lines.join('\n')}\n`
}

export const networkFile = (ground: Pick<Playground, 'subnet'>, node: Node): string =>
  `[Match]\nName=host0\n\n[Network]\nAddress=${addressOf(ground, node)}/24\nDHCP=no\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n`

/** The inventory that `ansible/site.yml` runs with. */
export function inventory(ground: Playground): string {
  const group = (nodes: Node[]) =>
    nodes.map((node) => `    ${node}: { ansible_host: ${addressOf(ground, node)} }`).join('\n')
  const postgres = ground.nodes.filter((node) => node.startsWith('pg'))
  const app = ground.nodes.filter((node) => node.startsWith('app'))
  return `---
# Written by pgcm-playground; every \`up\` writes it anew.
postgres:
  hosts:
${group(postgres)}
app:
  hosts:${app.length ? `\n${group(app)}` : ' {}'}
all:
  vars:
    ansible_user: root
    ansible_ssh_private_key_file: ${join(ground.dir, 'ssh_key')}
    ansible_ssh_common_args: ${sshOptions(ground).join(' ')}
    # Every package is in the image, and there is no way out to a mirror.
    pgcm_apt_update: false
    pacemaker_fence_devices:
      - id: fence-playground
        agent: fence_playground
        params:
          pcmk_host_list: ${postgres.join(' ')}
`
}

/** What ssh needs to know of the playground, whoever calls it. */
const sshOptions = (ground: Pick<Playground, 'dir'>): string[] => [
  ...['-o', `UserKnownHostsFile=${join(ground.dir, 'known_hosts')}`],
  ...['-o', 'StrictHostKeyChecking=yes', '-o', 'BatchMode=yes', '-o', 'LogLevel=ERROR'],
  ...['-o', 'ConnectTimeout=5', '-o', 'ServerAliveInterval=5', '-o', 'ServerAliveCountMax=3'],
]

/** `ssh` to a node, as words. */
export const sshTo = (ground: Playground, node: Node): string[] => [
  ...['ssh', '-i', join(ground.dir, 'ssh_key'), '-o', 'IdentitiesOnly=yes', ...sshOptions(ground)],
  `root@${addressOf(ground, node)}`,
]
