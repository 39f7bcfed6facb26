import { stripVTControlCharacters as bare } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Failed } from '../lib/errors.ts'
import { asJson, asLine } from '../lib/eventtext.ts'
import { type Event, pipeline, type Step } from '../lib/pipeline.ts'
import { kindOf, viewOf } from '../lib/view.ts'

const tty = { isTTY: true }
for (const [what, out, json, env, wanted] of [
  ['a terminal', tty, false, { TERM: 'xterm' }, 'live'],
  ['a pipe', {}, false, { TERM: 'xterm' }, 'plain'],
  ['a dumb terminal', tty, false, { TERM: 'dumb' }, 'plain'],
  ['a terminal made up by CI', tty, false, { CI: 'true' }, 'plain'],
  ['JSON on a terminal', tty, true, {}, 'json'],
  ['JSON in a pipe', {}, true, {}, 'json'],
] as const) {
  test(`${what} gets the ${wanted} view`, () => assert.is(kindOf(out, json, env), wanted))
}

const events: [Event, string | undefined, object][] = [
  [{ at: 5, event: 'start', step: 'lock' }, undefined, { at: 5, event: 'start', step: 'lock' }],
  [
    { at: 1234, event: 'done', step: 'lock', elapsed: 12.5 },
    '  1.234 s  lock       done in 12.5 ms',
    { at: 1234, event: 'done', step: 'lock', elapsed: 12.5 },
  ],
  [
    { at: 1, event: 'failed', step: 'pause', elapsed: 3, error: new Failed('two\nlines') },
    '  0.001 s  pause      failed after 3 ms: two lines',
    { at: 1, event: 'failed', step: 'pause', elapsed: 3, error: 'two lines' },
  ],
  [
    { at: 1, event: 'note', step: 'pause', text: '3 held', fields: { held: 3 } },
    '  0.001 s  pause      3 held',
    { at: 1, event: 'note', step: 'pause', text: '3 held', fields: { held: 3 } },
  ],
  [
    { at: 0, event: 'aborted', reason: 'aborted by SIGINT' },
    '  0.000 s             aborted by SIGINT; a second signal changes nothing',
    { at: 0, event: 'aborted', reason: 'aborted by SIGINT' },
  ],
]
for (const [event, text, json] of events) {
  test(`${event.event}: one line, and one of JSON`, () => {
    assert.is(asLine(event) && bare(asLine(event) as string), text)
    assert.equal(JSON.parse(asJson(event)), json)
  })
}

const sink = () => {
  const text: string[] = []
  return { text, write: (more: string) => text.push(more) }
}

test('plain: what is said and what happens, no records', async () => {
  const out = sink()
  const view = viewOf('plain', out, [])
  view.say('hello')
  view.on({ at: 0, event: 'start', step: 'x' })
  view.on({ at: 0, event: 'done', step: 'x', elapsed: 1 })
  view.record({ a: 1 })
  await view.close()
  assert.equal(out.text.map(bare), ['hello\n', '  0.000 s  x          done in 1 ms\n'])
})

test('JSON: events and records, one a line, nothing else', () => {
  const out = sink()
  const view = viewOf('json', out, [])
  view.say('hello')
  view.on({ at: 0, event: 'start', step: 'x' })
  view.record({ event: 'receipt', ok: true })
  assert.equal(
    out.text.map((line) => JSON.parse(line).event),
    ['start', 'receipt'],
  )
})

/** What the body has put on the screen, which is a terminal meanwhile. */
async function onScreen(body: () => Promise<void>): Promise<string> {
  const { isTTY, write } = process.stdout
  const out = sink()
  Object.assign(process.stdout, { isTTY: true, write: out.write })
  try {
    await body()
  } finally {
    Object.assign(process.stdout, { isTTY, write })
  }
  return bare(out.text.join(''))
}

test('live: undos are drawn in the order in which they are run, which is not always that of the steps', async () => {
  const step = (name: string, undo?: string, more?: Partial<Step<null>>): Step<null> => ({
    ...{ name, describe: () => [] },
    ...(undo && { undo: { name: undo, timeoutMs: 1000, byHand: '', describe: () => [], async run() {} } }),
    ...more,
  })
  const gone = async () => {
    throw new Failed('gone')
  }
  const steps = [
    step('lock', 'unlock'),
    step('prepare', 'unmigrate'),
    step('pause', 'resume'),
    step('migrate', undefined, { inherits: 'prepare', run: gone }),
    step('promoted'),
  ]
  const screen = await onScreen(async () => {
    const view = viewOf('live', sink(), steps)
    await pipeline(steps, null, { on: view.on }).catch(() => {})
    await view.close()
  })
  const drawn = [...new Set(screen.match(/\w+(?= \([\d.]+ ms\))|migrate: gone|promoted: not reached/g))]
  assert.equal(drawn, [
    ...['lock', 'prepare', 'pause', 'migrate: gone', 'promoted: not reached'],
    ...['unmigrate', 'resume', 'unlock'],
  ])
})

test.run()
