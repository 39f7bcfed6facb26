/** The steps of a planned failover, each with the undo that ends it; `failover.ts` puts them in order. */

import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { Api } from './api.ts'
import { Blocked, blockersOf } from './blockers.ts'
import { Failed, messageOf } from './errors.ts'
import { MARGIN_MS } from './etcdlock.ts'
import type { Step, Undo } from './pipeline.ts'
import { moveUntil, quietly, release, settle, takesWrites, unmigrateAnywhere } from './reach.ts'
import type { Base, Run, Times } from './run.ts'
import { now, sleep } from './wait.ts'

/** How much longer than the pauses may take the demotion waits for them. */
const HOLD_MARGIN_MS = 2000
/** The lock-timeout may be 0, which is for taking it. */
const UNLOCK_MS = 10_000
const names = (apis: Api[]) => apis.map(({ name }) => name).join(', ')
/** How long the move constraint lives if nobody removes it. */
const lifetime = ({ pauseExpiry, pacemakerTimeout }: Times) => pauseExpiry + pacemakerTimeout + 30_000

export const lock = (times: Times): Step<Base> => ({
  name: 'lock',
  describe: ({ leftover, nodes }) => [
    'etcd: create the lock key on a lease',
    ...(leftover ? [`rpc unmigrate -> ${nodes[0]?.name}, for what a killed run has left`] : []),
  ],
  async run(run, signal) {
    run.held = await run.world.lock(run.owner, times.lockTimeout, signal)
    run.held.lost.addEventListener('abort', () => run.abort(new Failed('lost the lock in etcd')))
    if (run.leftover) await unmigrateAnywhere(run, signal)
  },
  undo: {
    name: 'unlock',
    timeoutMs: UNLOCK_MS,
    byHand: 'The lock goes when its lease runs out, within 15 s.',
    describe: () => ['etcd: revoke the lease'],
    run: async ({ held }) => held?.release(),
  },
})

/** The world changes while a person reads a prompt. */
export const look: Step<Run> = {
  name: 'look again',
  describe: () => ['rpc status -> every machine'],
  run: (run) => run.lookAgain(),
}

/** A full collection. V8 offers it to a context made while it is exposed. */
function collectGarbage(): void {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
  setFlagsFromString('--no-expose-gc')
}

/** So that the shutdown, which happens while clients wait, has little left to write. */
export const checkpoint: Step<Run> = {
  name: 'checkpoint',
  describe: ({ from }) => [`rpc checkpoint -> ${from.name}`],
  async run({ from }, signal) {
    const done = from.api.checkpoint({ deadlineMs: 600_000, signal })
    collectGarbage() // the next time would be while clients are held
    await done
  },
}

export const pause = (times: Times): Step<Run> => ({
  name: 'pause',
  describe: ({ poolers }) => [
    `rpc pause {timeout_ms: ${times.pauseTimeout}, expiry_ms: ${times.pauseExpiry}} -> ${names(poolers)}`,
  ],
  async run(run, signal, tell) {
    await run.held?.check()
    const together = new AbortController()
    const any = AbortSignal.any([signal, together.signal])
    run.pausedAt = now()
    const results = await Promise.allSettled(
      run.poolers.map((api) =>
        api
          .pause({
            timeoutMs: times.pauseTimeout,
            expiryMs: times.pauseExpiry,
            owner: run.owner,
            deadlineMs: times.pauseTimeout + 2000,
            signal: any,
          })
          .catch((error) => {
            // All or none: nobody goes on waiting for a pause that is not to be. Others that meet open transactions
            // are at their time-out as well, and have more of them to tell.
            if (blockersOf(error).length === 0 && !together.signal.aborted) together.abort(error)
            throw error
          }),
      ),
    )
    signal.throwIfAborted()
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []))
    const blockers = errors.flatMap(blockersOf)
    if (blockers.length > 0) throw new Blocked(blockers)
    if (errors.length > 0) throw together.signal.reason
    tell(`${results.length} PgBouncers hold their clients`)
  },
  undo: resuming(times),
})

function resuming(times: Times): Undo<Run> {
  return {
    name: 'resume',
    // Longer than the pauses last: there is nothing to be gained by giving up before they end by themselves.
    timeoutMs: times.pauseExpiry + times.resumeTimeout,
    byHand: `Each PgBouncer resumes by itself, ${times.pauseExpiry / 1000} s after its pause; RESUME on its console does it at once.`,
    describe: ({ address, poolers }) => [`rpc resume {address: ${address}} -> ${names(poolers)}`],
    async run(run, signal, tell) {
      const address = !run.moving || run.arrived ? run.address : await settle(run, signal, tell)
      // One by one: a PgBouncer that is slow to hear of the new primary keeps nobody else waiting.
      const results = await Promise.allSettled(
        run.poolers.map(async (api) => {
          const { stallMs } = await release(run, api, run.owner, run.moving ? address : undefined, signal)
          run.stallMs = Math.max(run.stallMs ?? 0, stallMs)
        }),
      )
      run.resumedAt = now()
      const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []))
      if (address === undefined) errors.unshift(new Failed('no primary takes writes'))
      if (errors.length > 0) throw new Failed(errors.map(messageOf).join('; '))
      if (run.pausedAt !== undefined)
        tell(`clients were held for ${Math.round(run.resumedAt - run.pausedAt)} ms`)
    },
  }
}

/** How long the demotion waits for the pauses, which may use up their time-out. */
const holdMs = ({ pauseTimeout }: Times) => pauseTimeout + HOLD_MARGIN_MS

/** Fails once somebody else than the target is primary. Watched from early on: while clients are held every start costs. */
function elsewhere({ world, epoch: before, target }: Run): { seen: Promise<never>; stop(): void } {
  const over = new AbortController()
  const seen = new Promise<never>((_, reject) => {
    world.watchPrimary(({ epoch, primary }) => {
      if (epoch > before && primary !== null && primary !== target.name)
        reject(new Failed(`${primary} became primary, not ${target.name}`, 'crm_mon shows the reason.'))
    }, over.signal)
  })
  return { seen: quietly(seen), stop: () => over.abort() }
}

/** Pacemaker comes as far as the demotion of the old primary, and waits: clients do not, so far. */
export const prepare = (times: Times): Step<Run> => ({
  name: 'prepare',
  describe: ({ from, target }) => [
    `rpc prepare {target: ${target.name}, lifetime_ms: ${lifetime(times)}, expiry_ms: ${holdMs(times)}} -> ${from.name}`,
  ],
  async run(run) {
    const { held, from, target } = run
    await held?.check()
    run.elsewhere = elsewhere(run)
    // Never cancelled: the node might do it all the same, after it was asked to undo it.
    await from.api.prepare({
      target: target.name,
      lifetimeMs: lifetime(times),
      expiryMs: holdMs(times),
      deadlineMs: 8000,
    })
  },
  undo: {
    name: 'unmigrate',
    timeoutMs: times.pacemakerTimeout,
    byHand: `cibadmin --delete --xpath '//rsc_location[starts-with(@id,"pgcm-move-")]' on a node removes the constraint.`,
    describe: ({ from }) => [`rpc unmigrate -> ${from.name}`],
    // The demotion waits on that node; it ends there by itself where only another can be asked.
    run(run, signal) {
      run.elsewhere?.stop()
      return unmigrateAnywhere(run.moving ? run : { ...run, nodes: [run.from, ...run.nodes] }, signal)
    },
  },
})

/**
 * From here on there is no way back that would be shorter: a demotion called off half-way costs a second promotion,
 * and clients would wait for both. So an abort lets it go on, for a while.
 */
export const migrate = (times: Times): Step<Run> => ({
  name: 'migrate',
  committed: true,
  inherits: 'prepare',
  describe: ({ from }) => [`rpc proceed -> ${from.name}`],
  async run(run) {
    await run.held?.check(MARGIN_MS)
    run.moving = true
    const deadlineMs = Math.round(Math.min(times.pacemakerTimeout, moveUntil(run) - now()))
    const proceeding = quietly(run.from.api.proceed({ deadlineMs: Math.min(deadlineMs, 4000) }))
    // Asked before there is anything to hear: no time is lost then.
    const stop = new AbortController()
    const answer = quietly(takesWrites(run.target.api, deadlineMs, stop.signal))
    run.writable = { answer, stop: () => stop.abort() }
    await proceeding
  },
})

/** How long the new primary is still waited for after an abort. */
const PATIENCE_MS = 3000

/** Until the new primary takes writes. Where somebody else becomes primary there is nothing left to wait for. */
export const promoted: Step<Run> = {
  name: 'promoted',
  committed: true,
  describe: ({ target }) => [`rpc writable -> ${target.name}`],
  async run(run, signal, tell) {
    const { elsewhere, writable } = run
    if (!elsewhere || !writable) throw new Error('nothing was moved')
    const over = new AbortController()
    const impatient = new Promise<never>((_, reject) => {
      const onAbort = () => {
        tell(`the move is under way: it is given ${PATIENCE_MS / 1000} s to end`)
        sleep(PATIENCE_MS, over.signal).then(() => reject(signal.reason))
      }
      if (signal.aborted) onAbort()
      else signal.addEventListener('abort', onAbort, { once: true })
      over.signal.addEventListener('abort', () => signal.removeEventListener('abort', onAbort))
    })
    try {
      await Promise.race([elsewhere.seen, impatient, writable.answer])
      run.arrived = true
    } catch (error) {
      writable.stop()
      throw error
    } finally {
      over.abort()
    }
  },
}

/** The undo of the move: a constraint is no longer needed once the role has moved. */
export const unmigrate: Step<Run> = {
  name: 'unmigrate',
  settles: 'migrate',
  describe: ({ nodes }) => [`rpc unmigrate -> ${nodes[0]?.name}`],
}

/**
 * The old primary comes back. Whatever becomes of this, the move has succeeded: nothing is undone, and the error says so.
 */
export const rejoin = (times: Times): Step<Run> => ({
  name: 'rejoin',
  committed: true,
  describe: ({ from }) => [`rpc rejoin {timeout_ms: ${times.rejoinTimeout}} -> ${from.name}`],
  async run(run, signal, tell) {
    const { from, target } = run
    try {
      signal.throwIfAborted()
      const deadlineMs = times.rejoinTimeout + 1000
      await from.api.rejoin({ timeoutMs: times.rejoinTimeout, deadlineMs, signal })
      run.rejoined = true
      tell(`${from.name} streams from ${target.name}`)
    } catch (error) {
      run.rejoined = false
      const why = signal.aborted ? messageOf(signal.reason) : messageOf(error)
      throw new Failed(
        `the move succeeded, ${target.name} is primary; but ${from.name} is not back: ${why}`,
        `sudo pgcm-rejoin on ${from.name} brings it back.`,
      )
    }
  },
})

/** The undo of the pause, as soon as it may be. */
export const resume: Step<Run> = {
  name: 'resume',
  settles: 'pause',
  describe: ({ address, poolers }) => [`rpc resume {address: ${address}} -> ${names(poolers)}`],
}
