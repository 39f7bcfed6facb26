import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { stripVTControlCharacters } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Body, execute, help } from '../lib/cli.ts'
import { optionsOf } from '../lib/config.ts'
import { ActNow, Failed, Refused } from '../lib/errors.ts'
import { type ScriptName, scripts } from '../lib/options.ts'

async function outcome(words: string[], body: Body, script: ScriptName = 'failover') {
  const said = { out: '', err: '' }
  const io = {
    stdin: {},
    stdout: { write: (text: string) => (said.out += text) },
    stderr: { write: (text: string) => (said.err += text) },
    env: { PGCM_CONFIG_FILE: '/dev/null' },
  }
  return { code: await execute(script, words, io, body), ...said }
}

const nothing = async () => {}

test('an expected error is one line and a hint, and has its exit code', async () => {
  const cases = [new Failed('no', 'Do it.'), new Refused('no', 'Do it.'), new ActNow('no', 'Do it.')]
  for (const [i, error] of cases.entries()) {
    const { code, out, err } = await outcome([], () => Promise.reject(error))
    assert.equal([code, out], [[1, 2, 3][i], ''])
    assert.is(stripVTControlCharacters(err), 'pgcm-failover: no\nhint: Do it.\n')
  }
})

test('a bug shows its stack', async () => {
  const { code, err } = await outcome([], () => Promise.reject(new TypeError('x is not y')))
  assert.is(code, 70)
  assert.match(err, /TypeError: x is not y\n\s+at /)
})

test('no error is exit code 0, and a body may give its own', async () => {
  assert.is((await outcome([], nothing)).code, 0)
  assert.is((await outcome([], async () => 1)).code, 1)
})

test('bad options end the run before it begins', async () => {
  const { code, err } = await outcome(['--nope'], () => assert.unreachable('began') as never)
  assert.is(code, 2)
  assert.match(err, /unknown option --nope/)
})

test('a word that nobody asked for ends the run before it begins, with the option it may have been meant for', async () => {
  const fail = () => assert.unreachable('began') as never
  for (const [script, words, said] of [
    ['failover', ['--yes', 'pg03'], 'pgcm-failover: unexpected word pg03\nhint: Did you mean --to pg03?\n'],
    [
      'failover',
      ['--to=pg03', 'pg02'],
      'pgcm-failover: unexpected word pg02\nhint: See pgcm-failover --help.\n',
    ],
    ['rejoin', ['pg01', 'x'], 'pgcm-rejoin: unexpected word pg01\nhint: See pgcm-rejoin --help.\n'],
    ['status', ['--', '--json'], 'pgcm-status: unexpected word --json\nhint: See pgcm-status --help.\n'],
  ] as [ScriptName, string[], string][]) {
    const { code, err } = await outcome(words, fail, script)
    assert.equal([code, stripVTControlCharacters(err)], [2, said])
  }
})

test('a script that takes words gets them', async () => {
  for (const script of ['pgcm', 'lock', 'playground'] as const) {
    const got: string[] = []
    await outcome(['ssh', 'pg01', 'ls'], async (_, { words }) => got.push(...words), script)
    assert.equal(got, ['ssh', 'pg01', 'ls'])
  }
})

test('a reader that goes away ends nothing half-way', async () => {
  const program = `
    import { run } from ${JSON.stringify(fileURLToPath(new URL('../lib/cli.ts', import.meta.url)))}
    run('pgcm', async (_config, _parsed, { stdout }) => {
      for (let i = 0; i < 50; i++) {
        stdout.write('line\\n')
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
      return 5
    })`
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
    env: { ...process.env, PGCM_CONFIG_FILE: '/dev/null' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  child.stdout.destroy()
  assert.is(await new Promise((resolve) => child.on('exit', resolve)), 5)
})

test('--version and --help work, and do nothing else', async () => {
  const fail = () => assert.unreachable('began') as never
  assert.match((await outcome(['--version'], fail)).out, /^pgcm-failover \d+\.\d+\.\d+\n$/)
  assert.is((await outcome(['-h'], fail)).out, help('failover'))
})

test('--help names every option of its script, in 100 columns', () => {
  for (const script of Object.keys(scripts) as ScriptName[]) {
    for (const option of optionsOf(script)) assert.match(help(script), new RegExp(`--${option.name}\\b`))
    for (const line of help(script).split('\n')) assert.ok(line.length <= 104, line)
  }
})

test.run()
