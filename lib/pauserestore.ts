import { join } from 'node:path'
import type { Config } from './config.ts'
import { stateDir } from './daemon.ts'
import { Refused } from './errors.ts'
import { log } from './log.ts'
import { type Keeper, keeper } from './pausekeeper.ts'
import * as pgbouncer from './pgbouncer.ts'

/**
 * Runs `body` with the keeper of this host's PgBouncer, which has taken up the pause of an earlier run before
 * anything that may fail. A daemon whose settings are refused ends only when that pause has: started anew it would
 * be refused again.
 */
export async function withPauses(
  config: Config,
  script: 'supervise' | 'proxy',
  console: pgbouncer.Console,
  body: (pauses: Keeper) => Promise<void>,
): Promise<void> {
  const valve = {
    pause: (options: { timeoutMs: number; signal: AbortSignal }) => pgbouncer.pause(console, options),
    resume: () => pgbouncer.resume(console),
  }
  const pauses = keeper(valve, join(stateDir(config, script), 'pause.json'))
  await pauses.restore()
  try {
    await body(pauses)
  } catch (error) {
    if (error instanceof Refused) await released(pauses)
    throw error
  }
}

/**
 * Comes back once nothing is paused: a pause outlives a restart of a daemon, not its end, since somebody must
 * resume.
 */
export async function released(pauses: Keeper): Promise<void> {
  pauses.refuse()
  const pause = pauses.current()
  if (pause) log.warn('daemon.waits', { until: pause.expiresAt, reason: 'PgBouncer is paused' })
  await pauses.idle()
}
