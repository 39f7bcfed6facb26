import { readFile, unlink } from 'node:fs/promises'
import * as grpc from '@grpc/grpc-js'
import { Fault } from './apiserver.ts'
import { writeAtomically } from './atomic.ts'
import { log } from './log.ts'
import { bootId, sleep } from './wait.ts'

/** A pause of this host's PgBouncer, as it stands on disk. */
export interface Pause {
  owner: string
  createdAt: string
  /** By the wall clock; for people. */
  expiresAt: string
  /** What counts: milliseconds of the monotonic clock of this boot, which no step of the wall clock moves. */
  deadline: number
  boot: string
}

export interface Clock {
  /** Milliseconds since this boot, the same for every process. */
  uptime(): number
  boot: string
}

export const systemClock = (): Clock => ({
  uptime: () => Number(process.hrtime.bigint() / 1_000_000n),
  boot: bootId(),
})

/** PAUSE and RESUME of one PgBouncer. */
export interface Valve {
  pause(options: { timeoutMs: number; signal: AbortSignal }): Promise<void>
  /** Gives how long the client that waited longest had waited, in ms. */
  resume(): Promise<number>
}

export interface PauseRequest {
  timeoutMs: number
  expiryMs: number
  owner: string
  signal: AbortSignal
}

const RETRY_MS = 500

function parse(text: string): Pause | null {
  try {
    const pause = JSON.parse(text)
    return typeof pause?.deadline === 'number' && typeof pause.boot === 'string' ? pause : null
  } catch {
    return null
  }
}

/**
 * Sees to it that a pause ends: at its expiry at the latest, whatever has become of whoever asked for it. The expiry is on disk
 * before PgBouncer is paused and gone only after it was resumed, so that a restart in between loses nothing.
 */
export function keeper(valve: Valve, file: string, clock: Clock = systemClock()) {
  let current: Pause | null = null
  let timer: NodeJS.Timeout | undefined
  let stop = new AbortController()
  let turn: Promise<unknown> = Promise.resolve()
  let whenIdle: (() => void)[] = []
  let ending = false

  /** One thing at a time: a RESUME must not meet a PAUSE half-way. */
  function inTurn<T>(body: () => Promise<T>): Promise<T> {
    const mine = turn.then(body, body)
    turn = mine.catch(() => {})
    return mine
  }

  async function arm(pause: Pause): Promise<void> {
    // Not for a power cut, after which PgBouncer holds nobody.
    await writeAtomically(file, `${JSON.stringify(pause)}\n`, 0o640, false)
    current = pause
    schedule(pause.deadline - clock.uptime())
  }

  function schedule(ms: number): void {
    clearTimeout(timer)
    timer = setTimeout(() => inTurn(expire), Math.max(0, ms))
  }

  async function disarm(): Promise<void> {
    await unlink(file).catch((error) => {
      if (error.code !== 'ENOENT') throw error
    })
    clearTimeout(timer) // not sooner: where the file stays, the expiry tries again
    current = null
    for (const done of whenIdle) done()
    whenIdle = []
  }

  /** Resumes however long it takes: nobody else will. */
  async function expire(): Promise<void> {
    if (!current) return
    const left = current.deadline - clock.uptime()
    if (left > 0) return schedule(left) // a later pause has taken its place, or the timer came a little before its time
    log.warn('pause.expired', { owner: current.owner, createdAt: current.createdAt })
    for (;;) {
      try {
        await valve.resume()
        await disarm()
        log.cleared('pause.resume')
        return
      } catch (error) {
        log.trouble('pause.resume', { error })
        await sleep(RETRY_MS)
      }
    }
  }

  function isOfAnother(owner: string): boolean {
    if (!owner || !current?.owner || owner === current.owner) return false
    log.warn('pause.kept', { owner: current.owner, expiresAt: current.expiresAt, asked: owner })
    return true
  }

  return {
    current: (): Pause | null => current,

    /** Takes up the pause that an earlier run of this daemon, or of this machine, has left. */
    restore: () =>
      inTurn(async () => {
        const text = await readFile(file, 'utf8').catch((error) => (error.code === 'ENOENT' ? null : ''))
        if (text === null) return
        const found = parse(text)
        const left = found && found.boot === clock.boot ? found.deadline - clock.uptime() : 0
        log.warn('pause.found', { owner: found?.owner, expiresAt: found?.expiresAt, left: Math.max(0, left) })
        // Unreadable, or from before the last boot: over. Its deadline means nothing on this clock.
        current = found && left > 0 ? found : { ...(found ?? nobody), deadline: clock.uptime() }
        schedule(left)
      }),

    /** Holds the clients, for `expiryMs` at most from now on. A pause that is already there is renewed and changes hands. */
    pause: ({ timeoutMs, expiryMs, owner, signal }: PauseRequest) =>
      inTurn(async () => {
        if (signal.aborted) throw new Fault(grpc.status.CANCELLED, 'the caller has gone')
        if (ending) throw new Fault(grpc.status.UNAVAILABLE, 'this daemon is being stopped')
        stop = new AbortController()
        const giveUp = () => stop.abort()
        signal.addEventListener('abort', giveUp, { once: true })
        const created = Date.now()
        const pause = {
          owner,
          createdAt: new Date(created).toISOString(),
          expiresAt: new Date(created + expiryMs).toISOString(),
          deadline: clock.uptime() + expiryMs,
          boot: clock.boot,
        }
        await arm(pause)
        try {
          await valve.pause({ timeoutMs: Math.min(timeoutMs, expiryMs), signal: stop.signal })
          if (stop.signal.aborted) throw new Fault(grpc.status.CANCELLED, 'the pause was called off')
          return pause
        } catch (error) {
          // What was begun is undone here and now; where that fails, the expiry goes on trying.
          pause.deadline = clock.uptime()
          await valve
            .resume()
            .then(disarm)
            .catch(() => schedule(0))
          throw error
        } finally {
          signal.removeEventListener('abort', giveUp)
        }
      }),

    /**
     * Lets the clients go. A pause that has an owner is ended by that owner only, or by somebody who gives no name; for anybody else
     * it is not theirs to end, and nothing happens. Gives how long the client that waited longest had waited, in ms.
     */
    resume: async (owner: string): Promise<number> => {
      if (isOfAnother(owner)) return 0
      stop.abort()
      return inTurn(async () => {
        if (isOfAnother(owner)) return 0 // it changed hands while this waited for its turn
        const stallMs = await valve.resume()
        await disarm()
        return stallMs
      })
    },

    /** No pause begins any more, nor is one renewed: who waits for the end is not waited for long. */
    refuse: () => {
      ending = true
    },

    /** Resolves once nothing is paused any more. */
    idle: (): Promise<void> =>
      current ? new Promise((resolve) => whenIdle.push(resolve)) : turn.then(() => {}),

    /** For tests and the end of the process. */
    close: () => clearTimeout(timer),
  }
}

const nobody: Pause = { owner: '', createdAt: '', expiresAt: '', deadline: 0, boot: '' }

export type Keeper = ReturnType<typeof keeper>
