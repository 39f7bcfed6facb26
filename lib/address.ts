/** Node names and addresses. */
import { lookup } from 'node:dns/promises'
import { Failed, messageOf } from './errors.ts'

const loopback = /^(127\.|::1$|::ffff:127\.|0\.0\.0\.0$|::$)/

/** Whether the host of an endpoint is that node's: by its name, short or full, or by its address. */
export const isHost = (host: string, node: string, address?: string): boolean =>
  host === node || host === address || host.startsWith(`${node}.`)

/** A node's address by name lookup, IPv4 where there is one. Never a loopback address: others would connect to themselves. */
export async function addressOf(node: string): Promise<string> {
  const found = await lookup(node, { all: true }).catch((cause) => {
    throw new Failed(`no address for ${node}: ${messageOf(cause)}`, `Put ${node} into DNS or /etc/hosts.`, {
      cause,
    })
  })
  const usable = found.filter(({ address }) => !loopback.test(address)).sort((a, b) => a.family - b.family)[0]
  if (!usable) {
    const hint = `Give ${node} its real address in /etc/hosts of this machine.`
    throw new Failed(
      `${node} has only loopback addresses here: ${found.map((f) => f.address).join(', ')}`,
      hint,
    )
  }
  return usable.address
}
