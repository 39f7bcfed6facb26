/** How long after a promotion each PgBouncer points at the new primary: what PostgreSQL's log says against what pgcm-proxy's says. */
import { address, bouncers, inside } from '../test/cluster/machines.ts'

/** Milliseconds for each PgBouncer; every machine of the playground has the host's clock. `since`: before the failover. */
export async function routed(target: string, since: Date): Promise<number[]> {
  // Right before it takes writes. "ready to accept connections" comes later, after the first commits if the CPU is scarce.
  const ready = "grep -h 'archive recovery complete' /var/log/postgresql/*-main.log"
  const { stdout } = await inside(target, ready)
  const promoted = Date.parse(
    stdout.trim().split('\n').at(-1)?.slice(0, 23).replace(' ', 'T').concat('Z') ?? '',
  )
  if (!(promoted >= since.getTime()))
    throw new Error(`the log of PostgreSQL on ${target} has no promotion since ${since}`)
  const own = ['journalctl', '-q', '-o', 'cat', '-u', 'pgcm-proxy', `--since=@${since.getTime() / 1000}`]
  return Promise.all(
    bouncers.map(async (machine) => {
      const lines = (await inside(machine, own)).stdout.split('\n').filter((line) => line.startsWith('{'))
      const pointed = lines
        .map((line) => JSON.parse(line))
        .find(({ event, address: to }) => event === 'pgbouncer.pointed' && to === address(target))
      if (!pointed) throw new Error(`pgcm-proxy on ${machine} did not point its PgBouncer at ${target}`)
      return Date.parse(pointed.ts) - promoted
    }),
  )
}
