import { existsSync, readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { Refused } from './errors.ts'
import { addressOf, bridgeOf, type Playground } from './playground-layout.ts'
import { sh } from './sh.ts'

/** First and last address of a network, as numbers. */
export type Range = [first: number, last: number]

export function rangeOf(cidr: string): Range {
  const [address = '', bits = '32'] = cidr.split('/')
  const number = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  const size = 2 ** (32 - Number(bits))
  const first = number - (number % size)
  return [first, first + size - 1]
}

const overlap = (a: Range, b: Range) => a[0] <= b[1] && b[0] <= a[1]

/** The subnet of a new playground. `taken` are the networks of this machine and of the other playgrounds. */
export function chooseSubnet(name: string, wanted: string, taken: string[]): string {
  const free = (subnet: string) => !taken.some((other) => overlap(rangeOf(subnet), rangeOf(other)))
  if (wanted) {
    const parts = wanted
      .match(/^(\d+)\.(\d+)\.(\d+)\.0\/24$/)
      ?.slice(1)
      .map(Number)
    const [a, b] = parts ?? []
    const local = a === 10 || (a === 192 && b === 168) || (a === 172 && b !== undefined && b >= 16 && b < 32)
    if (!parts || parts.some((part) => part > 255) || !local) {
      throw new Refused(`--subnet: ${wanted} is not a private /24`, 'Write it like 172.28.40.0/24.')
    }
    if (free(wanted)) return wanted
    throw new Refused(`${wanted} is in use on this machine`, 'Leave --subnet out, or give a free one.')
  }
  const numbers = name === 'pgcm' ? [33] : Array.from({ length: 200 }, (_, index) => 34 + index)
  const found = numbers.map((number) => `172.28.${number}.0/24`).find(free)
  if (found) return found
  throw new Refused('172.28.33.0/24 is in use on this machine', 'Give a free /24 with --subnet.')
}

/** The networks this machine has an address in or a route to, but for `ours`. */
export function networksInUse(ours: string): string[] {
  const addresses = Object.entries(networkInterfaces())
    .filter(([name]) => name !== ours)
    .flatMap(([, list]) => list ?? [])
    .flatMap(({ family, cidr }) => (family === 'IPv4' && cidr ? [cidr] : []))
  return [...addresses, ...routes(readFileSync('/proc/net/route', 'utf8'), ours)]
}

/** The networks in the text of /proc/net/route, without the default route. */
export function routes(text: string, ours: string): string[] {
  const bytes = (hex: string) => (hex.match(/../g) ?? []).reverse().map((byte) => Number.parseInt(byte, 16))
  return text
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split('\t'))
    .filter(([link, , , , , , , mask]) => link !== ours && mask !== '00000000')
    .map(([, to = '', , , , , , mask = '']) => {
      const ones =
        bytes(mask)
          .map((byte) => byte.toString(2))
          .join('')
          .split('1').length - 1
      return `${bytes(to).join('.')}/${ones}`
    })
}

const linkExists = (name: string) => existsSync(`/sys/class/net/${name}`)

/** Refuses a bridge that carries our name but not our address. */
export function checkBridge(ground: Pick<Playground, 'name' | 'subnet'>): void {
  const bridge = bridgeOf(ground.name)
  const addresses = networkInterfaces()[bridge] ?? []
  if (!linkExists(bridge) || addresses.some(({ address }) => address === addressOf(ground, 'host'))) return
  throw new Refused(
    `the network interface ${bridge} is there, but is not this playground's`,
    `Remove it (ip link delete ${bridge}), or give another --name.`,
  )
}

/** Docker loads br_netfilter, which sends bridged packets through a FORWARD chain that drops them. */
async function letThrough(bridge: string, flag: '-I' | '-D'): Promise<void> {
  const filtered = '/proc/sys/net/bridge/bridge-nf-call-iptables'
  if (!existsSync(filtered) || readFileSync(filtered, 'utf8').trim() === '0') return
  const rule = ['FORWARD', '-i', bridge, '-o', bridge, '-j', 'ACCEPT']
  const there = await sh(['iptables', '-w', '-C', ...rule], { okCodes: [0, 1, 2, 3, 4, 127] })
  if ((flag === '-I' && there.code === 1) || (flag === '-D' && there.code === 0)) {
    await sh(['iptables', '-w', flag, ...rule])
  }
}

/**
 * A hardware address of the bridge's own. It would have the lowest of its ports' otherwise: another one whenever that machine is killed
 * or started, and all the others would send what is for the host to the old one, for half a minute.
 */
const hardwareAddress = (ip: string) =>
  ['02', '00', ...ip.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0'))].join(':')

export async function bridgeUp(ground: Playground): Promise<void> {
  const bridge = bridgeOf(ground.name)
  if (!linkExists(bridge)) {
    await sh(['ip', 'link', 'add', bridge, 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0'])
    await sh(['ip', 'address', 'add', `${addressOf(ground, 'host')}/24`, 'dev', bridge])
  }
  await sh(['ip', 'link', 'set', bridge, 'address', hardwareAddress(addressOf(ground, 'host')), 'up'])
  await letThrough(bridge, '-I')
}

export async function bridgeDown(ground: Playground): Promise<void> {
  const bridge = bridgeOf(ground.name)
  if (linkExists(bridge)) await sh(['ip', 'link', 'delete', bridge])
  await letThrough(bridge, '-D')
}
