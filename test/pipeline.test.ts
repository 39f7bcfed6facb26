import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ActNow, Failed } from '../lib/errors.ts'
import { abortOnSignals, type Event, pipeline, type Step, type Undo, underDeadline } from '../lib/pipeline.ts'

const NAMES = ['lock', 'pause', 'migrate'] as const
const UNDOS = { lock: 'unlock', pause: 'resume', migrate: 'unmigrate' }

/** Three steps that write down what they did; `spoil` makes one of them (or one of the undos) misbehave. */
function scene(spoil: Record<string, (signal: AbortSignal) => unknown> = {}) {
  const did: string[] = []
  const events: Event[] = []
  const act = (name: string) => async (_: unknown, signal: AbortSignal) => {
    did.push(name)
    await spoil[name]?.(signal)
  }
  const steps: Step<null>[] = NAMES.map((name) => {
    const undo: Undo<null> = {
      name: UNDOS[name],
      timeoutMs: 50,
      byHand: `Do ${UNDOS[name]} by hand.`,
      describe: () => [`${UNDOS[name]} it`],
      run: act(UNDOS[name]),
    }
    return { name, undo, describe: () => [`${name} it`], run: act(name) }
  })
  const run = (options = {}, more: Step<null>[] = []) =>
    pipeline([...steps, ...more], null, { on: (event) => events.push(event), graceMs: 20, ...options })
  return {
    did,
    events,
    steps,
    run,
    told: () => events.map((e) => `${e.event} ${'step' in e ? e.step : ''}`.trim()),
  }
}
const thrown = (work: Promise<unknown>): Promise<Error> =>
  work.then(
    () => assert.unreachable('should have failed') as never,
    (error) => error,
  )
const fail = (text: string) => () => {
  throw new Failed(text)
}
const forever = () => new Promise(() => {})

test('steps run in order, undos last-first', async () => {
  const { did, run } = scene()
  await run()
  assert.equal(did, ['lock', 'pause', 'migrate', 'unmigrate', 'resume', 'unlock'])
})

test('events tell the same story, with times', async () => {
  const { events, run, told } = scene()
  const timings = await run()
  assert.equal(told().slice(0, 4), ['start lock', 'done lock', 'start pause', 'done pause'])
  assert.equal(told().slice(-2), ['undo unlock', 'undone unlock'])
  assert.ok(events.every((event, i) => i === 0 || event.at >= (events[i - 1] as Event).at))
  assert.equal(Object.keys(timings).sort(), [...NAMES, ...Object.values(UNDOS)].sort())
})

for (const [i, name] of NAMES.entries()) {
  const wanted = [
    ...NAMES.slice(0, i + 1),
    ...NAMES.slice(0, i + 1)
      .reverse()
      .map((step) => UNDOS[step]),
  ]
  test(`${name} fails: it and all before it are undone, nothing after it runs`, async () => {
    const { did, run } = scene({ [name]: fail('no') })
    assert.is((await thrown(run())).message, 'no')
    assert.equal(did, wanted)
  })

  test(`aborted during ${name}: the same, and undos do not see the abort`, async () => {
    const abort = new AbortController()
    const seen: boolean[] = []
    const see = (signal: AbortSignal) => seen.push(signal.aborted)
    const { did, run } = scene({
      [name]: (signal) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
          abort.abort(new Failed('aborted by SIGINT'))
        }),
      unlock: see,
      resume: see,
      unmigrate: see,
    })
    assert.is((await thrown(run({ signal: abort.signal }))).message, 'aborted by SIGINT')
    assert.equal(did, wanted)
    assert.ok(seen.length === i + 1 && seen.every((aborted) => !aborted))
  })

  test(`${name} ignores the abort: it is undone beside it after the grace`, async () => {
    const abort = new AbortController()
    const { did, run } = scene({
      [name]: () => {
        abort.abort(new Failed('stop'))
        return forever()
      },
    })
    assert.is((await thrown(run({ signal: abort.signal }))).message, 'stop')
    assert.equal(did, wanted)
  })

  test(`${name} finishes in spite of the abort: the run still ends there`, async () => {
    const abort = new AbortController()
    const { did, run } = scene({ [name]: () => abort.abort(new Failed('stop')) })
    await thrown(run({ signal: abort.signal }))
    assert.equal(did, wanted)
  })

  test(`${UNDOS[name]} fails: the others run, and somebody must act`, async () => {
    const { did, run } = scene({ [UNDOS[name]]: fail('cannot') })
    const error = (await thrown(run())) as ActNow
    assert.instance(error, ActNow)
    assert.is(error.message, `could not be undone: ${UNDOS[name]}: cannot`)
    assert.is(error.hint, `Do ${UNDOS[name]} by hand.`)
    assert.equal(did.slice(-3), ['unmigrate', 'resume', 'unlock'])
  })

  test(`${UNDOS[name]} hangs: its own deadline ends it, the others run`, async () => {
    const { did, run } = scene({ [UNDOS[name]]: forever })
    assert.match((await thrown(run())).message, `${UNDOS[name]} took longer than 50 ms`)
    assert.equal(did.slice(-3), ['unmigrate', 'resume', 'unlock'])
  })
}

test('a failed step and failed undos are all told', async () => {
  const { run } = scene({ migrate: fail('no target'), unmigrate: fail('one'), unlock: fail('two') })
  const error = (await thrown(run())) as ActNow
  assert.is(error.message, 'could not be undone: unmigrate: one; unlock: two (after: no target)')
  assert.is(error.hint, 'Do unmigrate by hand. Do unlock by hand.')
})

test('an undo without a failed step makes the run fail', async () => {
  const { run } = scene({ unlock: fail('x') })
  assert.instance(await thrown(run()), ActNow)
})

test('aborted before it starts: nothing runs', async () => {
  const { did, run } = scene()
  await thrown(run({ signal: AbortSignal.abort(new Failed('early')) }))
  assert.equal(did, [])
})

const resumeNow: Step<null> = { name: 'resume', settles: 'pause', describe: () => [] }

test('a step that settles another runs its undo early, once', async () => {
  const { did, run, told } = scene()
  await run({}, [resumeNow])
  assert.equal(did, ['lock', 'pause', 'migrate', 'resume', 'unmigrate', 'unlock'])
  assert.ok(told().includes('done resume') && !told().includes('undone resume'))
})

test('a step that inherits an undo has it run before those that were armed in between', async () => {
  const { did, steps, run } = scene()
  const last: Step<null> = {
    name: 'last',
    inherits: 'lock',
    describe: () => [],
    run: async () => fail('no')(),
  }
  assert.is((await thrown(run({}, [last]))).message, 'no')
  assert.equal(did, ['lock', 'pause', 'migrate', 'unlock', 'unmigrate', 'resume'])
  did.length = 0
  if (steps[0]) steps[0].run = async () => fail('early')()
  await thrown(run({}, [last]))
  assert.equal(did, ['unlock'], 'what never began inherits nothing')
})

test('what inherits an undo can be settled in the place of the step that armed it', async () => {
  const { did, run } = scene()
  const last: Step<null> = { name: 'last', inherits: 'lock', describe: () => [] }
  await run({}, [last, { name: 'unlock', settles: 'last', describe: () => [] }])
  assert.equal(did, ['lock', 'pause', 'migrate', 'unlock', 'unmigrate', 'resume'])
})

test('a settling that failed is tried again at the end', async () => {
  let tries = 0
  const { did, run } = scene({ resume: () => (++tries === 1 ? fail('blip')() : undefined) })
  assert.is((await thrown(run({}, [resumeNow]))).message, 'blip')
  assert.equal(did, ['lock', 'pause', 'migrate', 'resume', 'unmigrate', 'resume', 'unlock'])
})

test('an abort after the last stoppable step does not stop the settling', async () => {
  const abort = new AbortController()
  const { did, run } = scene({ resume: () => abort.abort(new Failed('late')) })
  await run({ signal: abort.signal }, [resumeNow])
  assert.equal(did, ['lock', 'pause', 'migrate', 'resume', 'unmigrate', 'unlock'])
})

test('an abort does not stop a step that is committed, nor the committed one after it', async () => {
  const abort = new AbortController()
  const { did, steps, run } = scene({ pause: () => abort.abort(new Failed('too late')) })
  for (const step of steps.slice(1)) step.committed = true
  await run({ signal: abort.signal }, [resumeNow])
  assert.equal(did, ['lock', 'pause', 'migrate', 'resume', 'unmigrate', 'unlock'])
})

test('but what is not committed does not begin any more', async () => {
  const abort = new AbortController()
  const { did, steps, run } = scene({ pause: () => abort.abort(new Failed('stop')) })
  if (steps[1]) steps[1].committed = true
  assert.is((await thrown(run({ signal: abort.signal }))).message, 'stop')
  assert.equal(did, ['lock', 'pause', 'resume', 'unlock'])
})

test('an abort before the first committed step stops it', async () => {
  const abort = new AbortController()
  const { did, steps, run } = scene({ lock: () => abort.abort(new Failed('stop')) })
  for (const step of steps.slice(1)) step.committed = true
  await thrown(run({ signal: abort.signal }))
  assert.equal(did, ['lock', 'unlock'])
})

test('a dry run describes everything, and runs only what touches nothing', async () => {
  const { did, events, run } = scene()
  const look: Step<null> = {
    name: 'look',
    readOnly: true,
    describe: () => [],
    run: async () => void did.push('look'),
  }
  await run({ dryRun: true }, [look])
  assert.equal(did, ['look'])
  const would = events.filter((event) => event.event === 'would')
  assert.equal(
    would.map(({ at, ...rest }) => rest),
    NAMES.map((step) => ({
      event: 'would',
      step,
      commands: [`${step} it`],
      undo: UNDOS[step],
      undoCommands: [`${UNDOS[step]} it`],
    })),
  )
})

test('a listener that throws harms nobody', async () => {
  const { did, run } = scene()
  await run({ on: fail('screen gone') })
  assert.is(did.length, 6)
})

test('a deadline: the value in time, an error when late, and its signal fires', async () => {
  assert.is(await underDeadline(50, 'late', async () => 7), 7)
  let fired = false
  const error = await thrown(
    underDeadline(5, 'too late', (signal) => {
      signal.addEventListener('abort', () => (fired = true))
      return forever()
    }),
  )
  assert.is(error.message, 'too late')
  assert.ok(fired)
})

test('the first signal aborts, the second changes nothing, dispose gives them back', () => {
  const before = process.listenerCount('SIGINT')
  const { signal, dispose } = abortOnSignals()
  process.emit('SIGTERM', 'SIGTERM')
  process.emit('SIGINT', 'SIGINT')
  assert.is(signal.reason.message, 'aborted by SIGTERM')
  dispose()
  assert.is(process.listenerCount('SIGINT'), before)
})

test.run()
