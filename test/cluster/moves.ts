/** Moving the primary on purpose, bringing the old one back, and whether everything has followed. */
import * as assert from 'uvu/assert'
import { until } from '../../lib/wait.ts'
import { bouncer, leftovers, pointsAt, primary, published } from './cluster.ts'
import { address, bouncers, inside, isOn } from './machines.ts'

export const failover = (...words: string[]) =>
  inside('app01', ['pgcm-failover', '--yes', ...words], { timeoutMs: 60_000 })
export const rejoin = (machine: string) => inside(machine, ['pgcm-rejoin', '--yes'], { timeoutMs: 60_000 })

/** Right after pgcm-failover has returned, not some time later: the new primary is known, routed to and writable everywhere. */
export async function moved(to: string): Promise<void> {
  assert.is(await primary(), to)
  assert.is(await published(), address(to))
  for (const machine of bouncers) {
    assert.is(await pointsAt(machine), address(to), `the PgBouncer of ${machine}`)
    await bouncer(machine, 'select 1', 'app', 1_000)
  }
  assert.equal(await leftovers(), [])
}

/** etcd and the PgBouncers of all machines that are on follow the primary. */
export async function followed(to: string, timeoutMs: number): Promise<void> {
  await until(`etcd says ${to}`, { timeoutMs }, async () => (await published()) === address(to))
  for (const machine of bouncers.filter(isOn)) {
    await until(
      `the PgBouncer of ${machine} points at ${to}`,
      { timeoutMs },
      async () => (await pointsAt(machine)) === address(to),
    )
  }
}
