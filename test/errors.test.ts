import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ActNow, Failed, messageOf, Refused } from '../lib/errors.ts'

test('each kind of expected error has its exit code', () => {
  assert.equal(
    [new Failed('x'), new Refused('x'), new ActNow('x')].map((e) => e.exitCode),
    [1, 2, 3],
  )
})

test('a message is one line, whatever was thrown', () => {
  assert.is(messageOf(new Error('one\n  two\n')), 'one two')
  assert.is(messageOf('text'), 'text')
  assert.is(messageOf(new AggregateError([new Error('a'), new Error('b'), new Error('a')])), 'a; b')
})

test('an error keeps its hint and its cause', () => {
  const cause = new Error('why')
  const error = new Refused('no', 'Try again.', { cause })
  assert.equal([error.name, error.hint, error.cause], ['Refused', 'Try again.', cause])
})

test.run()
