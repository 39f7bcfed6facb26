/** A demotion that waits until clients are held, or the move is called off; the agent's part is in agent-table.test.ts. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { demotion } from '../lib/demotion.ts'
import { Failed } from '../lib/errors.ts'
import { log } from '../lib/log.ts'
import { until } from '../lib/wait.ts'

log.setLevel('error')

async function scene(body: (world: World) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-demotion-'))
  const agent = join(dir, 'pgcm-Postgresql')
  mkdirSync(agent)
  process.env.HA_RSCTMP = dir
  const file = join(dir, 'hold')
  const calledOff: boolean[] = []
  const world: World = {
    /** As a run of the daemon makes it. */
    move: (fails, meanwhile) =>
      demotion({ resource: 'Postgresql', clone: 'msPostgresql' }, dir, async () => {
        meanwhile?.()
        if (fails) throw fails
        calledOff.push(existsSync(file))
      }),
    held: () => existsSync(file),
    goesOn: () => existsSync(`${file}.go`),
    deadline: () => Number(readFileSync(file, 'utf8')),
    calledOff,
    agentWaits: () => writeFileSync(join(agent, 'holding'), ''),
  }
  try {
    await body(world)
  } finally {
    delete process.env.HA_RSCTMP
    rmSync(dir, { recursive: true })
  }
}
interface World {
  move(fails?: Error, meanwhile?: () => void): ReturnType<typeof demotion>
  held(): boolean
  goesOn(): boolean
  deadline(): number
  /** For each time: whether the demotion was still held then. */
  calledOff: boolean[]
  agentWaits(): void
}
const uptime = () => Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 100

test('it is held for longer than it takes to be called off, by the clock that the agent reads', () =>
  scene(async ({ move, held, deadline }) => {
    const before = uptime()
    const it = move()
    await it.hold(5000)
    assert.ok(held())
    assert.ok(deadline() >= before + 500 + 100 && deadline() <= uptime() + 500 + 300, `${deadline()}`)
    await it.letGo()
  }))

test('reached once the agent waits, and not before', () =>
  scene(async ({ move, agentWaits }) => {
    const it = move()
    await it.hold(5000)
    const early = it.reached(AbortSignal.timeout(20)).catch((error) => error.message)
    assert.match(await early, 'until Pacemaker comes to the demotion')
    const reaching = it.reached(new AbortController().signal)
    agentWaits()
    await reaching
    await it.letGo()
  }))

test('it goes on: once only, and it is not called off afterwards', () =>
  scene(async ({ move, held, goesOn, calledOff }) => {
    const it = move()
    await it.hold(60)
    assert.is(it.proceed(), true)
    assert.equal([held(), goesOn()], [false, true])
    assert.is(it.proceed(), false)
    await it.hold(30)
    assert.equal([held(), goesOn()], [true, false], 'the next one is no more than held')
    await until('the second one has ended', { timeoutMs: 5000, everyMs: 5 }, () => !held())
    assert.equal(calledOff, [true], 'only the second one')
  }))

test('nobody lets it go in time: the move is called off while it is still held', () =>
  scene(async ({ move, held, calledOff }) => {
    await move().hold(20)
    await until('it has ended', { timeoutMs: 5000, everyMs: 5 }, () => !held())
    assert.equal(calledOff, [true])
  }))

test('it is called off once Pacemaker has been asked for it, however long that takes', () =>
  scene(async ({ move, held, calledOff }) => {
    const it = move()
    let tooSoon = false
    await it.inTurn(async () => {
      await it.hold(20)
      const early = until('too soon', { timeoutMs: 300, everyMs: 5 }, () => calledOff.length > 0)
      tooSoon = await early.catch(() => false)
    })
    assert.not(tooSoon)
    await until('it has ended', { timeoutMs: 5000, everyMs: 5 }, () => !held())
    assert.equal(calledOff, [true])
  }))

test('it cannot be called off: it stays held, and the deadline of the agent ends that', () =>
  scene(async ({ move, held }) => {
    const it = move(new Failed('no Pacemaker'))
    await it.hold(60_000)
    await it.giveUp('a test of it, whose error stands above')
    assert.ok(held())
    await it.letGo()
  }))

test('it does not go on while it is being called off, nor where that failed; the next one does', () =>
  scene(async ({ move, held, goesOn }) => {
    for (const fails of [undefined, new Failed('no Pacemaker')]) {
      const meanwhile: boolean[] = []
      const it = move(fails, () => meanwhile.push(it.proceed()))
      await it.hold(60_000)
      await it.giveUp('a test of it, whose error may stand above')
      assert.equal([meanwhile, it.proceed(), goesOn()], [[false], false, false])
      assert.is(held(), fails !== undefined)
      await it.hold(60_000)
      assert.is(it.proceed(), true)
    }
  }))

test('the next run of the daemon calls off what it finds, and nothing where there is nothing', () =>
  scene(async ({ move, held, calledOff }) => {
    const killed = move()
    await killed.hold(60_000)
    await move().giveUp('restarted')
    assert.not(held())
    assert.equal(calledOff, [true])
    await move().giveUp('restarted')
    assert.equal(calledOff, [true])
    await killed.letGo() // its timer would keep this process
  }))

test.run()
