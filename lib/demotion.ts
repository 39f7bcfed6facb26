/**
 * A planned move goes as far as the old primary's demotion and waits there, while its clients go on. What Pacemaker needs to come so
 * far (it writes the CIB, thinks, and notifies every node) then costs them nothing; and it can still be called off.
 *
 * The demotion waits, in the agent's pre-demote notification, as long as a file is there and its deadline is to come. Where the file
 * gets another name, the clients are held: PostgreSQL is shut down then without waiting for Pacemaker to say so.
 */
import { renameSync } from 'node:fs'
import { readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { writeAtomically } from './atomic.ts'
import type { Names } from './cluster.ts'
import { Failed } from './errors.ts'
import { log } from './log.ts'
import { sleep, until } from './wait.ts'

/** How much longer than here the agent waits: calling the move off comes first. */
const MARGIN_MS = 2000
/** How long Pacemaker may take to come to the demotion. */
const REACH_MS = 4000
/** The standbys are told at the same moment. What their agents do then, for about so long, would slow the pause down. */
const CALLING_MS = 200
/** No longer than this, with the margin: Pacemaker ends a notification after 20 s, and then demotes. */
export const LONGEST_MS = 15_000

const exists = (file: string) =>
  stat(file).then(
    () => true,
    () => false,
  )

/** `directory` is pgcm-supervise's own, in which the agent looks. `callOff` takes the move back. */
export function demotion({ resource }: Names, directory: string, callOff: () => Promise<void>) {
  const file = join(directory, 'hold')
  const go = `${file}.go`
  const waiting = join(process.env.HA_RSCTMP ?? '/run/resource-agents', `pgcm-${resource}`, 'holding')
  let timer: NodeJS.Timeout | undefined
  /** It is being called off, or was: where that failed, nobody knows what Pacemaker was told, and it must not go on by us. */
  let over = false
  let last: Promise<unknown> = Promise.resolve()

  /**
   * Asking Pacemaker for the move, and taking it back, never at the same time: a constraint that is on its way is not found, and would
   * come when there is no file any more.
   */
  function inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = last.then(work, work)
    last = turn
    return turn
  }

  /** Nothing is to be demoted, or Pacemaker is to see to it. */
  async function letGo(): Promise<void> {
    clearTimeout(timer)
    await rm(file, { force: true })
  }

  /** Nobody is left to say whether the clients are held. Where the move cannot be taken back, the agent's deadline ends this. */
  function giveUp(reason: string): Promise<void> {
    over = true
    return inTurn(async () => {
      if (!(await exists(file))) return
      log.warn('move.called-off', { reason })
      try {
        await callOff()
        await letGo()
      } catch (error) {
        log.error('move.called-off', { error })
      }
    })
  }

  return {
    /** From now on, for so long at most, a demotion waits here. */
    async hold(expiryMs: number): Promise<void> {
      clearTimeout(timer)
      over = false
      await rm(go, { force: true }) // of an earlier one that no agent has seen
      const uptime = Number((await readFile('/proc/uptime', 'utf8')).split(' ')[0])
      const deadline = Math.ceil(uptime * 100 + (expiryMs + MARGIN_MS) / 10)
      await writeAtomically(file, `${deadline}\n`, 0o644, false) // hundredths of a second, as the agent counts
      timer = setTimeout(() => giveUp('it expired'), expiryMs)
    },

    /** Resolves once the demotion waits. */
    async reached(signal: AbortSignal): Promise<void> {
      const bounds = { timeoutMs: REACH_MS, everyMs: 5, signal }
      await until('Pacemaker comes to the demotion', bounds, () => exists(waiting))
      await sleep(CALLING_MS, signal)
      if (signal.aborted) throw new Failed('nobody waits for it any more')
    },

    /** It goes on, as the clients are held. False: it had not been held any more, or is called off. */
    proceed(): boolean {
      if (over) return false
      clearTimeout(timer)
      try {
        renameSync(file, go)
        return true
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
        return false
      }
    },

    letGo,
    inTurn,

    /** For the beginning, where an earlier run of the daemon may have left one, and for the end. */
    giveUp,
  }
}

export type Demotion = ReturnType<typeof demotion>
