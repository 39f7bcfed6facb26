/** Faults that bin/pgcm-playground has no verb for. Each returns how to mend it. */
import { sh } from '../../lib/sh.ts'
import { address, init, inside, isOn, nodes } from './machines.ts'

const nft = (machine: string, ...words: string[]) => {
  const pid = init(machine)
  if (pid === undefined) return Promise.resolve(undefined)
  // The host's nft in the machine's network namespace: the machine need not have it.
  return sh(['nsenter', '-t', String(pid), '-n', 'nft', ...words], { okCodes: [0, 1] })
}

/** Drops what goes between one machine and others, both ways; one protocol only if given ('udp' is corosync). */
export async function cut(
  machine: string,
  others: string[],
  protocol?: 'udp' | 'tcp',
): Promise<() => Promise<void>> {
  const match = protocol ? ['meta', 'l4proto', protocol] : []
  await nft(machine, 'add', 'table', 'inet', 'pgcmtest')
  for (const [chain, side] of [
    ['input', 'saddr'],
    ['output', 'daddr'],
  ] as const) {
    await nft(
      machine,
      'add',
      'chain',
      'inet',
      'pgcmtest',
      chain,
      `{ type filter hook ${chain} priority -10; }`,
    )
    for (const other of others) {
      await nft(
        machine,
        'add',
        'rule',
        'inet',
        'pgcmtest',
        chain,
        'ip',
        side,
        address(other),
        ...match,
        'drop',
      )
    }
  }
  return async () => {
    await nft(machine, 'delete', 'table', 'inet', 'pgcmtest')
  }
}

/** Makes every fencing action fail, on every node. */
export async function muzzleFencing(): Promise<() => Promise<void>> {
  const agent = '/usr/sbin/fence_playground'
  const each = async (command: string) => {
    for (const node of nodes.filter(isOn)) await inside(node, command)
  }
  await each(
    `cp -p ${agent} ${agent}.good && printf '#!/bin/sh\\ncase "$*$(cat)" in *meta*) exec ${agent}.good -o metadata ;; esac\\nexit 1\\n' >${agent}`,
  )
  return () => each(`if [ -e ${agent}.good ]; then mv ${agent}.good ${agent}; fi`)
}
