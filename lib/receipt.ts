/** What a failover did, for people and for machines. */
import { colour } from './colour.ts'
import { formatDuration } from './config.ts'
import type { Timings } from './pipeline.ts'
import type { Run, Times } from './run.ts'
import { clusterOf, primaryOf, type Survey } from './survey.ts'

/** Shown before the first step: what to do if this terminal dies. */
export const wayOut = ({ pauseExpiry }: Times): string =>
  colour.grey(
    [
      `If this command dies: every PgBouncer resumes by itself ${formatDuration(pauseExpiry)} after its pause (RESUME on its console does it at`,
      'once), the lock goes within 15 s, and the next pgcm-failover removes the move constraint.',
    ].join('\n'),
  )

const round = (ms: number) => Math.round(ms * 10) / 10

/** What is known of a run however it ended. */
export function gist(run: Run, began: Date) {
  const { from, target, address, pausedAt, resumedAt, poolers } = run
  return {
    at: began.toISOString(),
    from: from.name,
    to: target.name,
    address,
    poolers: poolers.length,
    pauseMs: pausedAt !== undefined && resumedAt !== undefined ? round(resumedAt - pausedAt) : null,
    moved: run.arrived === true,
  }
}

export function receipt(run: Run, timings: Timings, began: Date, after: Survey) {
  const postgres = primaryOf(after)?.status.postgres
  const fields = {
    event: 'receipt',
    ok: true,
    ...gist(run, began),
    epoch: clusterOf(after)?.epoch.promoted ?? null,
    timeline: postgres?.timeline ?? null,
    lsn: postgres?.lsn ?? null,
    steps: Object.fromEntries(Object.entries(timings).map(([name, ms]) => [name, round(ms)])),
  }
  const steps = Object.entries(fields.steps).map(([name, ms]) => `${name} ${ms}`)
  const text = [
    `${colour.green('done')}: ${fields.to} (${fields.address}) is primary instead of ${fields.from}; timeline ${fields.timeline}, at ${fields.lsn}`,
    `clients of ${fields.poolers} PgBouncers were held for ${colour.bold(`${fields.pauseMs} ms`)}`,
    colour.grey(`ms: ${steps.join(', ')}`),
    `${fields.from} stays stopped until pgcm-rejoin brings it back as a standby there`,
  ].join('\n')
  return { fields, text }
}
