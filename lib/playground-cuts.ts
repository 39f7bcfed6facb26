import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Refused } from './errors.ts'
import { addressOf, bridgeOf, type Node, type Playground } from './playground-layout.ts'
import { lock } from './playground-lock.ts'
import { sh } from './sh.ts'

/** One cut: everything, or only some ports, between a machine and one other or all of them. */
export interface Cut {
  node: Node
  /** Absent: every other machine. */
  from?: Node
  /** Such as `5405/udp`. Absent: everything. */
  only?: string[]
}

/** `5405/udp,2379/tcp` as a list. */
export function ports(text: string): string[] {
  return text.split(',').map((port) => {
    const [, number, protocol] = port.match(/^(\d{1,5})\/(tcp|udp)$/) ?? []
    if (number && protocol && Number(number) <= 65535) return port
    throw new Refused(`--only: ${JSON.stringify(port)} is not a port`, 'Write it like 5405/udp or 2379/tcp.')
  })
}

/**
 * The cuts as nftables rules of the bridge, which make up the whole table anew. The switch drops the packets, not
 * the machines: to them it looks like a cable, not like a firewall that says "operation not permitted", and a
 * machine that reboots comes back to the same cut. A port counts at either end.
 */
export function rules(ground: Pick<Playground, 'name' | 'subnet' | 'nodes'>, cuts: Cut[]): string {
  const table = `table bridge ${bridgeOf(ground.name)}`
  const drops = cuts.flatMap(({ node, from, only }) => {
    const others = from ? [from] : ground.nodes.filter((other) => other !== node)
    const here = addressOf(ground, node)
    const there = `{ ${others.map((other) => addressOf(ground, other)).join(', ')} }`
    const ways = [`ip saddr ${here} ip daddr ${there}`, `ip saddr ${there} ip daddr ${here}`]
    const which = only?.flatMap((port) => {
      const [number, protocol] = port.split('/')
      return [` ${protocol} sport ${number}`, ` ${protocol} dport ${number}`]
    }) ?? ['']
    return ways.flatMap((way) => which.map((match) => `    ${way}${match} drop`))
  })
  // Naming the table first makes it, so that deleting it cannot fail.
  const fresh = `${table}\ndelete ${table}\n`
  if (drops.length === 0) return fresh
  const hook = '    type filter hook forward priority 0; policy accept;'
  return `${fresh}${table} {\n  chain cuts {\n${hook}\n${drops.join('\n')}\n  }\n}\n`
}

const fileOf = (ground: Playground) => join(ground.dir, 'cuts.json')

export function read(ground: Playground): Cut[] {
  try {
    return JSON.parse(readFileSync(fileOf(ground), 'utf8'))
  } catch {
    return []
  }
}

export const apply = (ground: Playground, cuts: Cut[]) =>
  sh(['nft', '-f', '-'], { input: rules(ground, cuts) })

/** Changes the cuts, for the bridge and for the next `start`. */
export async function change(ground: Playground, body: (cuts: Cut[]) => Cut[]): Promise<void> {
  const held = await lock(`${ground.name}-cuts`, 'somebody else changes the network', 10)
  try {
    const before = read(ground)
    const cuts = body(before)
    if (cuts.length === 0 && before.length === 0) return
    await apply(ground, cuts)
    if (cuts.length === 0) rmSync(fileOf(ground), { force: true })
    else writeFileSync(fileOf(ground), JSON.stringify(cuts))
  } finally {
    held.release()
  }
}
