import { metrics } from './metrics.ts'
import type { Sample } from './metrictable.ts'
import { now } from './wait.ts'

/** What became of the RELOADs, for those who watch. */
export function reloads() {
  let last: { ok: boolean; at: number; seconds: number } | undefined
  let pointed: string | undefined
  for (const result of ['ok', 'failed']) metrics.add('pgcm_reloads_total', { result }, 0)
  return {
    /** Where PgBouncer was last seen to point. */
    pointed: () => pointed,

    /** `address`: where PgBouncer points now; undefined when it did not work. `start`: of `now()`. */
    note(address: string | undefined, start: number): void {
      last = { ok: address !== undefined, at: Date.now(), seconds: (now() - start) / 1000 }
      pointed = address ?? pointed
      metrics.add('pgcm_reloads_total', { result: last.ok ? 'ok' : 'failed' })
    },

    samples(): Sample[] {
      const known: Sample[] = pointed ? [['pgcm_pointed', 1, { address: pointed }]] : []
      if (!last) return known
      return [
        ...known,
        ['pgcm_reload_ok', Number(last.ok)],
        ['pgcm_reload_timestamp_seconds', last.at / 1000],
        ['pgcm_reload_duration_seconds', last.seconds],
      ]
    },
  }
}
