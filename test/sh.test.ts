import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { CommandFailed, complaint, sh, shown } from '../lib/sh.ts'
import { within } from '../lib/wait.ts'

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error: unknown) => {
      assert.instance(error, CommandFailed)
      return (error as Error).message.replace(/\d+ ms/, 'T ms')
    },
  )

test('words reach the command as they are', async () => {
  const words = ["a'b", '$(id)', '*', 'two words', '', '\n', '"', '\\', '-n', '`id`', 'é']
  const { stdout } = await sh(['printf', '%s|', ...words])
  assert.is(stdout, `${words.join('|')}|`)
})

test('stdin is closed, or is what was given', async () => {
  assert.is((await sh(['cat'])).stdout, '')
  assert.is((await sh(['cat'], { input: 'hello' })).stdout, 'hello')
  assert.is((await sh(['true'], { input: 'x'.repeat(1_000_000) })).code, 0)
})

test('a failure names command, exit code, time and the last line of stderr', async () => {
  const message = await failure(sh(['sh', '-c', 'echo first >&2; echo last >&2; exit 3']))
  assert.is(message, 'sh -c echo first >&2; echo last >&2; exit 3: exit 3 after T ms: last')
  assert.match(await failure(sh(['no-such-command'])), /^no-such-command: could not be started: not found/)
  assert.match(await failure(sh(['sh', '-c', 'kill -9 $$'])), /died of SIGKILL/)
})

test('words are shown as a shell takes them', async () => {
  const words = ['--dbname=host=a user=b', "it's", '', '$(id)', '/usr/bin:x']
  const { stdout } = await sh(['sh', '-c', `printf '%s|' ${shown(words)}`])
  assert.is(stdout, `${words.join('|')}|`)
})

test("a program's complaint is its first error, without what it noticed before and after", () => {
  const said =
    'pg_rewind: servers diverged at 0/1\npg_rewind: error: could not read\n\tIs it there?\npg_rewind: error: again\n'
  assert.is(complaint(said), 'could not read')
  assert.is(complaint('pg_rewind: servers diverged at 0/1\n'), '')
})

test('what it left behind ends with it, if that is wanted', async () => {
  const options = { endsAsOne: true, timeoutMs: 60_000 }
  await within(30_000, 'its end', sh(['sh', '-c', 'sleep 60 & exit 0'], options))
})

test('other exit codes can be right', async () => {
  assert.is((await sh(['sh', '-c', 'exit 7'], { okCodes: [0, 7] })).code, 7)
})

test('a command that ignores SIGTERM is killed on time, with what it started', async () => {
  const stubborn = sh(['sh', '-c', 'trap "" TERM; sleep 60 & sleep 60'], { timeoutMs: 100 })
  assert.match(await within(30_000, 'its end', failure(stubborn)), /timed out/)
})

test('a signal stops it', async () => {
  const stop = new AbortController()
  setTimeout(() => stop.abort(), 50)
  assert.match(await failure(sh(['sleep', '9'], { signal: stop.signal })), /was stopped/)
  assert.match(await failure(sh(['sleep', '9'], { signal: stop.signal })), /was stopped after T ms/)
})

test('endless output ends it', async () => {
  assert.match(await failure(sh(['yes'], { maxBytes: 100_000 })), /more than 100000 bytes/)
})

test.run()
