/** pgcm-failover, a process of its own, is killed at every step; the next one leaves nothing behind. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { log } from '../lib/log.ts'
import { until } from '../lib/wait.ts'
import { fakeMachines } from './fake-machines.ts'

log.setLevel('error')
type Machines = Awaited<ReturnType<typeof fakeMachines>>

const LOCK = '/postgres/lock'

/** Where it dies: at a call that a machine gets, or at a transaction in etcd; before it is answered. */
interface Point {
  call?: string
  /** Which of several such calls. */
  nth?: number
  etcd?: 'lock' | 'unlock'
}

async function killedAt({ call, nth = 1, etcd }: Point): Promise<Machines> {
  let kill = () => {}
  let seen = 0
  const machines = await fakeMachines((name) => {
    if (name === call && ++seen === nth) return kill()
  })
  const command = machines.command()
  const killed = new Promise<void>((resolve) => {
    kill = () => {
      kill = () => {}
      return command.kill().then(resolve) as never
    }
  })
  const { put, delete: remove } = machines.store
  machines.store.put = function (key: string, ...rest) {
    put.call(this, key, ...rest)
    if (key === LOCK && etcd === 'lock') kill()
  }
  machines.store.delete = function (key: string) {
    if (key === LOCK && etcd === 'unlock') kill()
    else remove.call(this, key)
  }
  await Promise.race([
    killed,
    command.ended.then(async ({ code, text }) => {
      if (text && code !== null) await machines.close()
      if (text && code !== null) throw new Error(`it ended with ${code} and was not killed:\n${text}`)
    }),
  ])
  Object.assign(machines.store, { put, delete: remove })
  return machines
}

/** What the killed run had got through when it died, and what the next one does about it. */
for (const [what, point, found, moved] of [
  ['it has just got the lock', { etcd: 'lock' }, ['its lock'], true],
  ['it looks again', { call: 'app01 status', nth: 2 }, ['its lock'], true],
  ['the checkpoint is being made', { call: 'pg01 checkpoint' }, ['its lock', 'its record'], true],
  ['the move is prepared', { call: 'pg01 prepare' }, ['its lock'], true],
  ['the pauses begin', { call: 'pg01 pause' }, ['its lock'], true],
  ['the last pause is being made', { call: 'app01 pause' }, ['its lock', 'its pause'], true],
  ['the move begins', { call: 'pg01 proceed' }, ['its lock', 'its pause', 'its move constraint'], null],
  ['the new primary is waited for', { call: 'pg02 writable' }, ['its lock', 'its pause'], null],
  ['clients are let go', { call: 'app01 resume' }, ['its lock', 'so it had moved'], null],
  ['the constraint is being removed', { call: 'pg02 unmigrate' }, ['its lock', 'so it had moved'], null],
  ['it gives the lock back', { etcd: 'unlock' }, ['its lock', 'so it had moved'], null],
] as [string, Point, string[], boolean | null][]) {
  test(`killed when ${what}: the next run says what it finds, and leaves nothing`, async () => {
    const machines = await killedAt(point)
    try {
      const { state, store } = machines
      assert.ok(store.keys.has(LOCK), 'its lock is still there')
      await until(
        'what was under way has ended',
        { timeoutMs: 5000, everyMs: 10 },
        () => state.primary !== null,
      )
      const { code, text } = await machines.again()
      // Where the killed run had moved the primary, its former one is not back yet: no second move.
      const primary = state.primary
      assert.equal([code, primary], code === 0 ? [0, 'pg02'] : [1, 'pg02'], text)
      if (moved) assert.is(code, 0, text)
      for (const said of ['a failover was killed', ...found]) assert.match(text, said)
      assert.equal(machines.held(), [], text)
      assert.equal([...state.paused.keys()], [], text)
      assert.is(state.constraint, null, text)
      assert.not(store.keys.has(LOCK), text)
      assert.equal(state.letGoWrongly, [], text)
    } finally {
      await machines.close()
    }
  })
}

test.run()
