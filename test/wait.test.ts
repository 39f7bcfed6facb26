import { getEventListeners } from 'node:events'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now, since, sleep, until, within } from '../lib/wait.ts'

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error: Error) => error.message,
  )

test('a sleep ends when its signal aborts; one that was not disturbed leaves no listener behind', async () => {
  const stop = new AbortController()
  await sleep(1, stop.signal)
  assert.is(getEventListeners(stop.signal, 'abort').length, 0)
  const start = now()
  setTimeout(() => stop.abort(), 20)
  await sleep(10_000, stop.signal)
  assert.ok(since(start) < 1000)
})

test('a deadline names what was late', async () => {
  assert.is(
    await failure(within(20, 'the answer', new Promise(() => {}))),
    'the answer took longer than 20 ms',
  )
  assert.is(await within(1000, 'the answer', Promise.resolve(42)), 42)
})

test('a failure after the deadline ends nothing', async () => {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error('late')), 30))
  await failure(within(5, 'it', late))
  await sleep(50)
})

test('until gives the first truthy answer, or says what never came true', async () => {
  let n = 0
  assert.is(await until('n is 3', { timeoutMs: 1000, everyMs: 1 }, () => (++n === 3 ? n : 0)), 3)
  const never = until('pigs fly', { timeoutMs: 30, everyMs: 5 }, () => false)
  assert.match(await failure(never), /not so within 30 ms: pigs fly/)
})

test('until does not wait for a probe that hangs', async () => {
  assert.match(await failure(until('it is', { timeoutMs: 30 }, () => new Promise(() => {}))), /it is/)
})

test.run()
