/** Getting long transactions out of the way before clients are held, instead of holding everybody until they end. */
import type { Api } from './api.ts'
import { duration, formatDuration } from './config.ts'
import { Failed, Refused } from './errors.ts'
import { OLDEST_MS } from './options.ts'
import { describe } from './pgbouncer.ts'
import type { Step, Tell } from './pipeline.ts'
import type { Run, Times } from './run.ts'
import type { Transaction } from './transactions.ts'
import { now, sleep } from './wait.ts'

export type Drain = { how: 'none' } | { how: 'wait' } | { how: 'terminate'; ageMs: number }

/** What lasts longer than this is waited for; what is shorter ends within any pause. */
const LONG_MS = 1000
const POLL_MS = 500
/** The same transactions are told again after this long. */
const REMIND_MS = 10_000
/** After a longer wait than this the checkpoint is stale, and the world may have changed. */
const FRESH_MS = 5000

/** `--drain`. @throws Refused */
export function parseDrain(text: string): Drain {
  if (text === '') return { how: 'none' }
  if (text === 'wait') return { how: 'wait' }
  const ageMs = duration(text.match(/^terminate:(.+)$/)?.[1] ?? '')
  if (ageMs !== undefined && ageMs > OLDEST_MS)
    throw new Refused(
      `--drain: ${JSON.stringify(text)} is more than ${formatDuration(OLDEST_MS)}`,
      'Such as terminate:5m.',
    )
  if (ageMs !== undefined && ageMs > 0) return { how: 'terminate', ageMs }
  throw new Refused(
    `--drain: ${JSON.stringify(text)} is neither wait nor terminate:AGE`,
    'Such as terminate:5m.',
  )
}

/** The transactions that `--drain terminate:AGE` is about, to be shown before anybody is asked. */
export async function doomedBy(drain: Drain, primary: Api, deadlineMs: number): Promise<Transaction[]> {
  if (drain.how !== 'terminate') return []
  return primary.transactions({ olderThanMs: drain.ageMs, deadlineMs })
}

const same = (a: Transaction) => (b: Transaction) => a.pid === b.pid && a.since === b.since
const list = (open: Transaction[]) => open.map((each) => `${describe(each)} (pid ${each.pid})`).join('; ')

/** Ends those that were chosen, and waits until none of them, or none that is long, is left. */
export const drain = (plan: Drain, times: Times): Step<Run> => ({
  name: 'drain',
  describe: ({ from, doomed }) =>
    plan.how === 'terminate'
      ? [`rpc terminate {pids: ${doomed.map(({ pid }) => pid).join(', ') || 'none'}} -> ${from.name}`]
      : [`rpc transactions {older_than_ms: ${LONG_MS}} -> ${from.name}, until there is none`],
  async run(run, signal, tell) {
    const end = now() + times.drainTimeout
    if (plan.how === 'terminate') {
      await endThem(run, signal, tell)
      const left = async () => {
        const open = await openFor(run, 0, signal)
        return open.filter((each) => run.doomed.some(same(each)))
      }
      if (run.doomed.length > 0) await untilNone(left, { end, times, signal, tell })
      return
    }
    for (;;) {
      const began = now()
      await untilNone(() => openFor(run, LONG_MS, signal), { end, times, signal, tell })
      if (now() - began < FRESH_MS) return
      await run.lookAgain()
      await run.from.api.checkpoint({ deadlineMs: 600_000, signal })
    }
  },
})

const openFor = (run: Run, olderThanMs: number, signal: AbortSignal) =>
  run.from.api.transactions({ olderThanMs, deadlineMs: 5000, signal })

async function endThem({ from, doomed }: Run, signal: AbortSignal, tell: Tell): Promise<void> {
  if (doomed.length === 0) return tell('no transaction is that old')
  const outcomes = await from.api.terminate({ transactions: doomed, deadlineMs: 10_000, signal })
  const stubborn = outcomes.filter(({ error }) => error !== '')
  const ended = outcomes.filter(({ ended }) => ended).map(({ pid }) => pid)
  const over = outcomes.length - ended.length - stubborn.length
  tell(
    `${ended.length} of ${doomed.length} transactions were ended${over > 0 ? `, ${over} had come to their own end` : ''}`,
    { ended },
  )
  if (stubborn.length > 0)
    throw new Failed(stubborn.map(({ pid, error }) => `pid ${pid} could not be ended: ${error}`).join('; '))
}

interface Waiting {
  end: number
  times: Times
  signal: AbortSignal
  tell: Tell
}

async function untilNone(
  look: () => Promise<Transaction[]>,
  { end, times, signal, tell }: Waiting,
): Promise<void> {
  let told = ''
  let toldAt = -Infinity
  for (;;) {
    const open = await look()
    if (open.length === 0) return
    signal.throwIfAborted()
    if (now() >= end)
      throw new Failed(
        `still open after ${formatDuration(times.drainTimeout)} (drain-timeout): ${list(open)}`,
        'Clients were not held. --drain terminate:AGE ends transactions that are older than AGE.',
      )
    const who = open.map(({ pid }) => pid).join()
    if (who !== told || now() - toldAt >= REMIND_MS) {
      tell(
        `waiting for ${open.length === 1 ? 'one transaction' : `${open.length} transactions`}: ${list(open)}`,
      )
      told = who
      toldAt = now()
    }
    await sleep(Math.min(POLL_MS, Math.max(1, end - now())), signal)
  }
}
