import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { failedFencings } from '../lib/fencing.ts'

/** As `stonith_admin --history='*' --output-as=xml` prints it: [target, status, completed]. */
const history = (...events: [string, string, string?][]) =>
  `<pacemaker-result api-version="2.38" request="stonith_admin"><list name="fencing history" count="${events.length}">${events
    .map(
      ([target, status, at]) =>
        `<fence_event status="${status}" action="reboot" target="${target}" client="c" origin="pg01"${at ? ` completed="2026-11-25 ${at}.000000Z"` : ''} exit-reason="no route"/>`,
    )
    .join('')}</list><status code="0" message="OK"/></pacemaker-result>`
const targets = (...events: [string, string, string?][]) =>
  failedFencings(history(...events)).map(({ target }) => target)

test('what was never tried has not failed', () => assert.equal(targets(), []))
test('a failure is told, with its reason', () => {
  assert.equal(failedFencings(history(['pg02', 'failed', '10:00:00'])), [
    { target: 'pg02', action: 'reboot', at: '2026-11-25 10:00:00.000000Z', reason: 'no route' },
  ])
})
test('a success afterwards ends it, in whatever order they are listed', () => {
  assert.equal(targets(['pg02', 'success', '10:00:02'], ['pg02', 'failed', '10:00:01']), [])
  assert.equal(targets(['pg02', 'failed', '10:00:01'], ['pg02', 'success', '10:00:02']), [])
})
test('a success before it, of another node, or one still under way does not', () => {
  const failed = ['pg02', 'failed', '10:00:01'] as [string, string, string]
  assert.equal(
    targets(failed, ['pg02', 'success', '10:00:00'], ['pg03', 'success', '10:00:09'], ['pg02', 'pending']),
    ['pg02'],
  )
})
test('what is no answer throws', () => {
  assert.throws(() => failedFencings('Connection refused'))
})

test.run()
