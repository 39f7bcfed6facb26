/** The steps of a planned failover, each with the undo that ends it; `failover.ts` puts them in order. */

import type { Api } from './api.ts'
import { Blocked, blockersOf } from './blockers.ts'
import { Failed, messageOf } from './errors.ts'
import type { Step, Undo } from './pipeline.ts'
import { arrive, ask, moveUntil, onAnyNode, persist, quietly, settle, unmigrateAnywhere } from './reach.ts'
import type { Base, Run, Times } from './run.ts'
import { now, sleep } from './wait.ts'

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
    timeoutMs: times.lockTimeout,
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

/** So that the shutdown, which happens while clients wait, has little left to write. */
export const checkpoint: Step<Run> = {
  name: 'checkpoint',
  describe: ({ from }) => [`rpc checkpoint -> ${from.name}`],
  run: async ({ from }, signal) => void (await from.api.checkpoint({ deadlineMs: 600_000, signal })),
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
    describe: ({ poolers }) => [`rpc resume -> ${names(poolers)}`],
    async run(run, signal, tell) {
      const address = !run.moving || run.arrived ? run.address : await settle(run, signal, tell)
      const results = await Promise.allSettled(
        run.poolers.map(async (api) => {
          // One by one: a PgBouncer that is slow to hear of the new primary keeps nobody else waiting.
          if (run.moving && address !== undefined) await arrive(run, api, address, signal)
          await persist(times.resumeTimeout, signal, async (deadlineMs) => {
            const { stallMs } = await api.resume({ owner: run.owner, deadlineMs, signal })
            run.stallMs = Math.max(run.stallMs ?? 0, stallMs)
          })
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

/**
 * From here on there is no way back that would be shorter: a demotion called off half-way costs a second promotion,
 * and clients would wait for both. So an abort lets it go on, for a while.
 */
export const migrate = (times: Times): Step<Run> => ({
  name: 'migrate',
  committed: true,
  describe: ({ target, nodes }) => [
    `rpc migrate {target: ${target.name}, lifetime_ms: ${lifetime(times)}} -> ${nodes[0]?.name}`,
  ],
  async run(run) {
    await run.held?.check()
    run.moving = true
    const deadlineMs = Math.round(Math.min(times.pacemakerTimeout, moveUntil(run) - now()))
    const stop = new AbortController()
    // The PgBouncers are asked to say when they have heard before there is anything to hear: no time is lost then.
    const routes = run.poolers.map((api): [Api, Promise<unknown>] => [
      api,
      quietly(ask(api, run.address, deadlineMs, stop.signal)),
    ])
    run.routes = { of: new Map(routes), stop: () => stop.abort() }
    // Never cancelled: the node might do it all the same, after it was asked to undo it.
    await onAnyNode(run.nodes, (node) =>
      node.migrate({
        target: run.target.name,
        lifetimeMs: lifetime(times),
        deadlineMs: Math.min(deadlineMs, 4000), // then another node is asked
      }),
    )
  },
  undo: {
    name: 'unmigrate',
    timeoutMs: times.pacemakerTimeout,
    byHand: `cibadmin --delete --xpath '//rsc_location[starts-with(@id,"pgcm-move-")]' on a node removes the constraint.`,
    describe: ({ nodes }) => [`rpc unmigrate -> ${nodes[0]?.name}`],
    run: unmigrateAnywhere,
  },
})

/** How long the new primary is still waited for after an abort. */
const PATIENCE_MS = 3000

/** Until the new primary takes writes. Where somebody else becomes primary there is nothing left to wait for. */
export const routed: Step<Run> = {
  name: 'routed',
  committed: true,
  describe: ({ address, poolers }) => [`rpc routed {address: ${address}} -> ${names(poolers)}`],
  async run(run, signal, tell) {
    const over = new AbortController()
    const elsewhere = new Promise<never>((_, reject) => {
      run.world.watchPrimary(({ epoch, primary }) => {
        if (epoch > run.epoch && primary !== null && primary !== run.target.name)
          reject(new Failed(`${primary} became primary, not ${run.target.name}`, 'crm_mon shows the reason.'))
      }, over.signal)
      const onAbort = () => {
        tell(`the move is under way: it is given ${PATIENCE_MS / 1000} s to end`)
        sleep(PATIENCE_MS, over.signal).then(() => reject(signal.reason))
      }
      if (signal.aborted) onAbort()
      else signal.addEventListener('abort', onAbort, { once: true })
      over.signal.addEventListener('abort', () => signal.removeEventListener('abort', onAbort))
    })
    try {
      await Promise.race([elsewhere, run.routes?.of.get(run.target.api)])
      run.arrived = true
    } catch (error) {
      run.routes?.stop()
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
  describe: ({ poolers }) => [`rpc resume -> ${names(poolers)}`],
}
