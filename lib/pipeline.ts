/**
 * Runs steps in order and, whatever happens, their undos in reverse order.
 * It knows nothing of clusters and nothing of screens: who wants to show something listens to its events.
 */
import { ActNow, Failed } from './errors.ts'
import { now } from './wait.ts'

export interface Undo<C> {
  name: string
  /** How long it may take. Its own clock: neither Ctrl-C nor the step's deadline shortens it. */
  timeoutMs: number
  /** What a person does where this undo has failed. */
  byHand: string
  describe(ctx: C): string[]
  run(ctx: C, signal: AbortSignal, tell: Tell): Promise<void>
}

export interface Step<C> {
  name: string
  /** The commands and calls it makes, as --dry-run prints them. */
  describe(ctx: C): string[]
  run?(ctx: C, signal: AbortSignal, tell: Tell): Promise<void>
  /** Armed before run() is called, so a step that dies half-way is undone as well. */
  undo?: Undo<C>
  /** Instead of run(): the undo armed by that step happens now, and not again at the end unless it failed. */
  settles?: string
  /** The undo armed by that step becomes this one's: from here on it is due before those that were armed in between. */
  inherits?: string
  /** Touches nothing: is run in a dry run too. */
  readOnly?: boolean
  /**
   * An abort does not end it, nor keep the next such step from being run: going back would take longer than going
   * on. It sees the abort and bounds itself.
   */
  committed?: boolean
}

export type Tell = (text: string, fields?: Record<string, unknown>) => void

/** Milliseconds everywhere; `at` counts from the start of the run. */
export type Event = { at: number } & (
  | { event: 'start' | 'undo'; step: string }
  | { event: 'done' | 'undone'; step: string; elapsed: number }
  | { event: 'failed' | 'undo-failed'; step: string; elapsed: number; error: Error }
  | { event: 'note'; step: string; text: string; fields?: Record<string, unknown> }
  | { event: 'would'; step: string; commands: string[]; undo?: string; undoCommands?: string[] }
  | { event: 'aborted'; reason: string }
)

export type Listener = (event: Event) => void

export interface Options {
  signal?: AbortSignal
  on?: Listener
  dryRun?: boolean
  /** How long a step may go on after an abort before its undo is run beside it. */
  graceMs?: number
}

/** Milliseconds of each step and undo that was run, by name. */
export type Timings = Record<string, number>

/**
 * @throws what the failed step threw, once everything is undone
 * @throws ActNow where an undo failed; its hint says what is left to do by hand
 */
export async function pipeline<C>(steps: Step<C>[], ctx: C, options: Options = {}): Promise<Timings> {
  const { signal = new AbortController().signal, dryRun = false, graceMs = 2000 } = options
  const began = now()
  const timings: Timings = {}
  const armed: { step: string; undo: Undo<C> }[] = []
  const failures: { undo: Undo<C>; error: Error }[] = []
  const emit = (event: Without<Event, 'at'>) => {
    try {
      options.on?.({ at: Math.round(now() - began), ...event } as Event)
    } catch {
      // A screen that broke is no reason to leave a PgBouncer paused.
    }
  }
  const onAbort = () => emit({ event: 'aborted', reason: asError(signal.reason).message })
  signal.addEventListener('abort', onAbort)

  const timed = async (name: string, verbs: Verbs, work: (tell: Tell) => Promise<void>) => {
    const start = now()
    const elapsed = () => {
      const ms = Math.round((now() - start) * 10) / 10
      timings[name] = (timings[name] ?? 0) + ms
      return ms
    }
    emit({ event: verbs[0], step: name })
    try {
      await work((text, fields) => emit({ event: 'note', step: name, text, fields }))
      emit({ event: verbs[1], step: name, elapsed: elapsed() })
    } catch (thrown) {
      const error = asError(thrown)
      emit({ event: verbs[2], step: name, elapsed: elapsed(), error })
      throw error
    }
  }
  const undoNow = (undo: Undo<C>, verbs: Verbs) =>
    timed(undo.name, verbs, (tell) =>
      underDeadline(undo.timeoutMs, `${undo.name} took longer than ${undo.timeoutMs} ms`, (own) =>
        undo.run(ctx, own, tell),
      ),
    )

  let failed: Error | undefined
  let underWay = false
  try {
    for (const step of steps) {
      if (dryRun && !step.readOnly) {
        const { undo } = step
        emit({
          event: 'would',
          step: step.name,
          commands: step.describe(ctx),
          ...(undo && { undo: undo.name, undoCommands: undo.describe(ctx) }),
        })
        continue
      }
      const settled = step.settles && armed.findIndex((entry) => entry.step === step.settles)
      if (typeof settled === 'number' && settled >= 0) {
        // An abort comes too late for this one: it is what the abort would do anyway, only sooner.
        await undoNow((armed[settled] as (typeof armed)[0]).undo, ['start', 'done', 'failed'])
        armed.splice(settled, 1)
        continue
      }
      if (!step.committed || !underWay) signal.throwIfAborted()
      underWay ||= step.committed === true
      if (step.undo) armed.push({ step: step.name, undo: step.undo })
      const inherited = armed.findIndex((entry) => entry.step === step.inherits)
      if (inherited >= 0)
        armed.push({ ...(armed.splice(inherited, 1)[0] as (typeof armed)[0]), step: step.name })
      await timed(step.name, ['start', 'done', 'failed'], async (tell) => {
        const work = Promise.resolve(step.run?.(ctx, signal, tell))
        await (step.committed ? work : heeding(signal, graceMs, work))
      })
    }
  } catch (thrown) {
    failed = asError(thrown)
  }
  for (const { undo } of armed.reverse()) {
    await undoNow(undo, ['undo', 'undone', 'undo-failed']).catch((error) => failures.push({ undo, error }))
  }
  signal.removeEventListener('abort', onAbort)
  if (failures.length) throw leftOver(failures, failed)
  if (failed) throw failed
  return timings
}

type Without<T, K extends string> = T extends unknown ? Omit<T, K> : never
type Verbs = ['start', 'done', 'failed'] | ['undo', 'undone', 'undo-failed']

function leftOver(failures: { undo: Undo<never>; error: Error }[], cause?: Error): ActNow {
  const what = failures.map(({ undo, error }) => `${undo.name}: ${error.message}`).join('; ')
  const first = cause && !failures.some(({ error }) => error === cause) ? ` (after: ${cause.message})` : ''
  return new ActNow(
    `could not be undone: ${what}${first}`,
    failures.map(({ undo }) => undo.byHand).join(' '),
    { cause: cause ?? failures[0]?.error },
  )
}

/** The work's own end; or, where it was aborted, the abort: once the work has ended, or ignored it for graceMs. */
function heeding(signal: AbortSignal, graceMs: number, work: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined
    const onAbort = () => {
      timer = setTimeout(() => reject(signal.reason), graceMs)
    }
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    const end = () => (signal.aborted ? reject(signal.reason) : resolve())
    work
      .then(end, (error) => reject(signal.aborted ? signal.reason : error))
      .finally(() => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
      })
  })
}

/** Runs work with a signal that fires after ms; rejects then, even if the work ignores the signal. */
export function underDeadline<T>(
  ms: number,
  message: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new Failed(message)
      reject(error)
      controller.abort(error)
    }, ms)
  })
  return Promise.race([work(controller.signal), late]).finally(() => clearTimeout(timer))
}

/** The first SIGINT, SIGTERM, SIGHUP or SIGQUIT aborts; any more change nothing: the undos are on their way. */
export function abortOnSignals(): {
  signal: AbortSignal
  abort(reason: Error): void
  dispose(): void
} {
  const controller = new AbortController()
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const
  const handler = (name: NodeJS.Signals) => {
    if (!controller.signal.aborted) controller.abort(new Failed(`aborted by ${name}`))
  }
  for (const name of names) process.on(name, handler)
  return {
    signal: controller.signal,
    abort(reason) {
      if (!controller.signal.aborted) controller.abort(reason)
    },
    dispose() {
      for (const name of names) process.off(name, handler)
    },
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Failed(String(thrown ?? 'aborted'))
}
