import { PassThrough } from 'node:stream'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { confirm } from '../lib/ask.ts'
import { Refused } from '../lib/errors.ts'
import { within } from '../lib/wait.ts'

/** What becomes of the question when somebody types this, and then nothing more. */
async function outcome(typed: string) {
  const [input, output] = [new PassThrough(), new PassThrough()]
  const asking = confirm('Go on?', { yes: false, isTTY: true }, input, output)
  input.end(typed)
  const error = await within(20_000, 'the answer', asking).catch((error) => error)
  return { error, asked: String(output.read()) }
}

test('only a yes is a yes', async () => {
  for (const typed of ['y\n', 'Y\n', ' yes \n']) {
    const { error, asked } = await outcome(typed)
    assert.equal([error, asked], [undefined, 'Go on? [y/N] '], typed)
  }
  for (const typed of ['\n', 'n\n', 'no\n', 'yesterday\n', 'not y\n', '\ny\n']) {
    const { error } = await outcome(typed)
    assert.instance(error, Refused, typed)
    assert.is(error.message, 'not confirmed', typed)
  }
})

test('who leaves without an answer has not confirmed', async () => {
  for (const typed of ['', 'y']) {
    const { error } = await outcome(typed)
    assert.instance(error, Refused, typed)
    assert.is(error.message, 'not confirmed')
  }
})

test('a signal ends the question, and its reason is what is said', async () => {
  const stop = new AbortController()
  const [input, output] = [new PassThrough(), new PassThrough()]
  const asking = confirm('Go on?', { yes: false, isTTY: true, signal: stop.signal }, input, output)
  stop.abort(new Error('aborted by SIGTERM'))
  const error = await within(20_000, 'the end', asking).catch((error) => error)
  assert.is(error.message, 'aborted by SIGTERM')
})

test.run()
