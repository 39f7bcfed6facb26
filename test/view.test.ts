import { stripVTControlCharacters as bare } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Failed } from '../lib/errors.ts'
import { asJson, asLine } from '../lib/eventtext.ts'
import type { Event } from '../lib/pipeline.ts'
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

test.run()
