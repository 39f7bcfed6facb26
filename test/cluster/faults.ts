/** Faults that bin/pgcm-playground has no verb for. */
import { inside, isOn, nodes } from './machines.ts'

/** Makes every fencing action fail, on every node. Returns what mends it. */
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
