import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { judge, shellFiles } from './judge.js'

const printed = (total: number, passed: number, skipped = 0) =>
  `• • •   (${passed} / ${total})\n\n  Total:     ${total}\n  Passed:    ${passed}\n  Skipped:   ${skipped}\n  Duration:  1.00ms\n`
const sane = { source: "test('x', () => {})\ntest.run()", code: 0, hung: false, deadlineS: 60 }

test('a good file passes with its counts', () => {
  assert.equal(judge({ ...sane, output: printed(3, 3) }), { passed: 3, failed: 0, skipped: 0, why: '' })
})

test('colours do not hide the counts', () => {
  const output = printed(2, 2).replace('  Passed:    2', '\u001b[32m\n  Passed:    2\u001b[39m')
  assert.is(judge({ ...sane, output }).passed, 2)
})

test('failed tests are counted one by one', () => {
  assert.equal(judge({ ...sane, output: printed(5, 3), code: 1 }), {
    passed: 3,
    failed: 2,
    skipped: 0,
    why: '',
  })
})

test('a file that ends well without having run anything fails', () => {
  assert.match(judge({ ...sane, output: '' }).why, /test\.run\(\) is missing/)
  assert.match(judge({ ...sane, output: printed(0, 0) }).why, /no test ran/)
})

test('a hook that threw (uvu: exit 0, 0 of 3 passed) fails', () => {
  assert.is(judge({ ...sane, output: printed(3, 0) }).failed, 3)
})

test('.only, .skip and hooks fail the file', () => {
  assert.is(judge({ ...sane, output: printed(1, 1, 4) }).failed, 1)
  for (const call of ['only', 'skip', 'before', 'after.each']) {
    const source = `${'test'}.${call}(() => {})`
    assert.is(judge({ ...sane, source, output: printed(1, 1) }).failed, 1, call)
  }
})

test('a test that says that it was skipped has not passed, and fails in CI', () => {
  const output = `# SKIPPED: 9 tests of PostgreSQL: it is not here\n• • # SKIPPED: ocf-tester: it needs root\n${printed(3, 3)}`
  assert.equal(judge({ ...sane, output }), { passed: 1, failed: 0, skipped: 10, why: '' })
  const { passed, failed, why } = judge({ ...sane, output, ci: true })
  assert.equal([passed, failed, why], [1, 10, 'in CI nothing may be skipped'])
})

test('a hang and a death after the counts fail the file', () => {
  assert.match(judge({ ...sane, output: printed(2, 2), hung: true }).why, /killed after 60 s/)
  assert.match(judge({ ...sane, output: printed(2, 2), code: 1 }).why, /ended with 1/)
})

test('shell files are found by name and by first line', () => {
  const files = shellFiles(process.cwd())
  assert.ok(files.includes('.ci/run'))
  assert.not(files.includes('bin/pgcm'))
})

test.run()
