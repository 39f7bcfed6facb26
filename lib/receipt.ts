/** What a failover did, for people and for machines. */
import { colour } from './colour.ts'
import { formatDuration } from './config.ts'
import { messageOf } from './errors.ts'
import type { Event, Timings } from './pipeline.ts'
import type { Run, Times } from './run.ts'
import { clusterOf, primaryOf, type Survey } from './survey.ts'

/** Shown before the first step: what to do if this terminal dies. */
export const wayOut = ({ pauseExpiry }: Times): string =>
  colour.grey(
    [
      `If this command dies: every PgBouncer resumes by itself ${formatDuration(pauseExpiry)} after its pause (RESUME on its console does it at`,
      'once), the lock goes within 15 s, and the next pgcm-failover undoes what is left.',
    ].join('\n'),
  )

const round = (ms: number) => Math.round(ms * 10) / 10

/** Milliseconds of each step and undo, also of a run that fails. */
export function stopwatch() {
  const steps: Timings = {}
  const on = (event: Event) => {
    if ('elapsed' in event) steps[event.step] = round((steps[event.step] ?? 0) + event.elapsed)
  }
  return { steps, on }
}

/** What is known of a run however it ended. `ok` is null as long as it has not. */
export interface Receipt {
  event: 'receipt'
  at: string
  ok: boolean | null
  error?: string
  [field: string]: unknown
}

function gist(run: Run, began: Date, steps: Timings) {
  const { owner, from, target, address, pausedAt, resumedAt, poolers, stallMs, rejoined } = run
  return {
    event: 'receipt' as const,
    at: began.toISOString(),
    owner,
    from: from.name,
    to: target.name,
    address,
    poolers: poolers.length,
    pauseMs: pausedAt !== undefined && resumedAt !== undefined ? round(resumedAt - pausedAt) : null,
    stallMs: stallMs ?? null,
    moved: run.arrived === true,
    rejoined: rejoined ?? null,
    steps,
  }
}

export const began = (run: Run, at: Date): Receipt => ({ ...gist(run, at, {}), ok: null })

export const failed = (run: Run, at: Date, steps: Timings, error: unknown): Receipt => ({
  ...gist(run, at, steps),
  ok: false,
  error: messageOf(error),
})

export function receipt(run: Run, at: Date, steps: Timings, after: Survey): Receipt {
  const postgres = primaryOf(after)?.status.postgres
  return {
    ...gist(run, at, steps),
    ok: true,
    epoch: clusterOf(after)?.epoch.promoted ?? null,
    timeline: postgres?.timeline ?? null,
    lsn: postgres?.lsn ?? null,
  }
}

/** The receipt of a run that went well. */
export function receiptText(run: Run, { timeline, lsn, pauseMs, steps }: Receipt): string {
  const { from, target, address, poolers, stallMs = 0 } = run
  const stall = stallMs > 0 ? `the longest wait of a client was ${stallMs} ms` : 'no client had to wait'
  return [
    `${colour.green('done')}: ${target.name} (${address}) is primary instead of ${from.name}; timeline ${timeline}, at ${lsn}`,
    `clients of ${poolers.length} PgBouncers were held for ${colour.bold(`${pauseMs} ms`)}; ${stall}, as the PgBouncers saw it`,
    colour.grey(
      `ms: ${Object.entries(steps as Timings)
        .map(([name, ms]) => `${name} ${ms}`)
        .join(', ')}`,
    ),
    run.rejoined
      ? `${from.name} is back: it streams from ${target.name}`
      : `${from.name} stays stopped until pgcm-rejoin brings it back as a standby there`,
  ].join('\n')
}

/** A line of pgcm-status --history. */
export function historyLine({
  at,
  ok,
  from,
  to,
  pauseMs,
  stallMs,
  timeline,
  rejoined,
  error,
  moved,
}: Receipt): string {
  const head = `${at}  ${from} -> ${to}  `
  if (ok === null) return `${head}${colour.yellow('has not ended')}: it runs, or it was killed`
  const held = pauseMs === null || pauseMs === undefined ? 'clients not held' : `held ${pauseMs} ms`
  const wait = typeof stallMs === 'number' && pauseMs ? `, longest wait ${stallMs} ms` : ''
  if (!ok) return `${head}${held}${wait}  ${colour.red(moved ? 'moved, then failed' : 'failed')}: ${error}`
  return `${head}${held}${wait}  timeline ${timeline}${rejoined ? `  ${from} rejoined` : ''}`
}
