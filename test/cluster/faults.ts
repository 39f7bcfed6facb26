/** Faults that bin/pgcm-playground has no verb for. */
import { until } from '../../lib/wait.ts'
import { healthy } from './cluster.ts'
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

const AGENT = '/usr/lib/ocf/resource.d/pgcm/pgsql'
const ARMED = '/run/killed-at'

/**
 * Makes the agent of each of the nodes kill itself (-9) once, right before its line that begins with `line`; or do `how`, a command
 * without single quotes, and go on. `hits` are the nodes where it has; `restore` puts the agent back.
 */
export async function killAgentBefore(machines: string[], line: string, how = 'kill -9 $$') {
  const each = (command: string) => Promise.all(machines.map((machine) => inside(machine, command)))
  const trap = `if [ -e ${ARMED} ]; then rm ${ARMED}; ${how}; fi`
  const script = 'index($0, line) == 1 { print trap; found++ } { print } END { exit found != 1 }'
  await each(
    `cp -p ${AGENT} ${AGENT}.good && cp -p ${AGENT} ${AGENT}.new && touch ${ARMED} && ` +
      `LINE='${line}' TRAP='${trap}' awk 'BEGIN { line = ENVIRON["LINE"]; trap = ENVIRON["TRAP"] } ${script}' ` +
      `${AGENT}.good >${AGENT}.new && mv ${AGENT}.new ${AGENT}`,
  )
  return {
    hits: async () => {
      const armed = await Promise.all(
        machines.map((machine) => inside(machine, ['test', '-e', ARMED], { okCodes: [0, 1] })),
      )
      return machines.filter((_, at) => armed[at]?.code === 1)
    },
    restore: () => each(`rm -f ${ARMED} && mv ${AGENT}.good ${AGENT}`),
  }
}

/** No process of PostgreSQL is left in a machine. */
export const nothingRuns = async (machine: string): Promise<boolean> =>
  (await inside(machine, ['pgrep', '-x', 'postgres'], { okCodes: [0, 1] })).code === 1

/** Runs a command in a standby's data directory while Pacemaker keeps PostgreSQL stopped there. */
async function whileStopped(machine: string, command: string): Promise<void> {
  const standby = (words: string) => inside(machine, `crm_standby --node ${machine} ${words}`)
  await standby('--update on')
  try {
    await until('it has stopped', { timeoutMs: 60_000, everyMs: 250 }, () => nothingRuns(machine))
    await inside(machine, `cd /var/lib/postgresql/*/main && ${command}`, { timeoutMs: 60_000 })
  } finally {
    await standby('--delete')
  }
  await healthy(60_000)
}

/**
 * Gives a standby's WAL a disk of its own, in memory: none of the machine's is filled. `fill` leaves no byte free on it,
 * `enlarge` undoes that, `remove` puts the WAL back, when the machine is a standby again.
 */
export async function walDisk(machine: string) {
  const resize = (size: string) => inside(machine, `mount -o remount,size=${size} /run/wal`)
  await whileStopped(
    machine,
    'mkdir /run/wal && mount -t tmpfs -o size=4g wal /run/wal && cp -a pg_wal/. /run/wal && mount --bind /run/wal pg_wal',
  )
  return {
    fill: () => resize('$(df --output=used -k /run/wal | tail -n 1)k'),
    enlarge: () => resize('4g'),
    remove: () =>
      whileStopped(
        machine,
        'umount pg_wal && rm -rf pg_wal/* && cp -a /run/wal/. pg_wal && umount /run/wal && rmdir /run/wal',
      ),
  }
}
