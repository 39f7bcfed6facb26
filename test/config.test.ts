import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { camel, duration, formatDuration, load } from '../lib/config.ts'
import { Refused } from '../lib/errors.ts'
import { options } from '../lib/options.ts'

const nowhere = { PGCM_CONFIG_FILE: '/dev/null' }

function refusal(argv: string[], env: NodeJS.ProcessEnv = {}): string {
  try {
    load('failover', argv, { ...nowhere, ...env })
  } catch (error) {
    assert.instance(error, Refused)
    return [(error as Refused).message, (error as Refused).hint].filter(Boolean).join(' / ')
  }
  assert.unreachable('it should have been refused')
  return ''
}

function withFile<T>(text: string, body: (file: string) => T): T {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-test-'))
  try {
    writeFileSync(join(dir, 'pgcm.toml'), text)
    return body(join(dir, 'pgcm.toml'))
  } finally {
    rmSync(dir, { recursive: true })
  }
}

test('durations', () => {
  assert.equal(
    ['0', '500ms', '1.5s', '1m30s', '2h', '1h1m1s1ms'].map(duration),
    [0, 500, 1500, 90000, 7200000, 3661001],
  )
  assert.equal(['', '5', '-1s', '1 s', '5d', 's', '1e3s', 'Infinity'].map(duration), Array(8).fill(undefined))
  assert.equal([0, 500, 1500, 90_000, 7_200_000].map(formatDuration), ['0s', '500ms', '1.5s', '1m30s', '2h'])
})

test('every default is valid, and every name is used once', () => {
  const { config } = load('failover', [], nowhere)
  assert.is(Object.keys(config).length, options.length)
  assert.is(new Set(options.map((o) => camel(o.name))).size, options.length)
})

test('a flag wins over the environment, the environment over the file, the file over the default', () => {
  withFile('pause-timeout = "1s"\nlock-timeout = "1s"\nresume-timeout = "1s"\n', (file) => {
    const env = { PGCM_PAUSE_TIMEOUT: '2s', PGCM_LOCK_TIMEOUT: '2s' }
    const { config, sources } = load('failover', ['--config-file', file, '--pause-timeout=3s'], env)
    const { pauseTimeout, lockTimeout, resumeTimeout, healthCheckTimeout } = config
    assert.equal([pauseTimeout, lockTimeout, resumeTimeout, healthCheckTimeout], [3000, 2000, 1000, 2000])
    const names = ['pause-timeout', 'lock-timeout', 'resume-timeout', 'health-check-timeout']
    assert.equal(
      names.map((name) => sources[name]),
      ['flag', 'environment', 'file', 'default'],
    )
  })
})

test('unknown names are refused, with the nearest one', () => {
  assert.is(refusal(['--pause-timout=3s']), 'unknown option --pause-timout / Did you mean --pause-timeout?')
  assert.is(refusal(['-x']), 'unknown option -x')
  for (const arg of ['--==', '--=x', '--a\nb', '--\n=x'])
    assert.is(refusal([arg]), `unknown option ${JSON.stringify(arg)}`)
  for (const arg of ['--constructor', '--toString', '--__proto__'])
    assert.is(refusal([`${arg}=x`]), `unknown option ${arg}`)
  assert.is(
    refusal([], { PGCM_PAUSE_TIMOUT: '3s' }),
    'unknown environment variable PGCM_PAUSE_TIMOUT / Did you mean PGCM_PAUSE_TIMEOUT?',
  )
  withFile('pause-timout = "3s"', (file) => {
    const hint = 'Did you mean pause-timeout?'
    assert.is(refusal([`--config-file=${file}`]), `unknown key in ${file}: pause-timout / ${hint}`)
  })
})

test('wrong values are refused', () => {
  assert.is(
    refusal(['--pause-timeout=5']),
    '--pause-timeout: "5" is not a duration such as 500ms, 5s or 1m30s',
  )
  assert.is(refusal(['--log-level', 'loud']), '--log-level: "loud" is not one of debug, info, warn, error')
  assert.is(refusal(['--yes=no']), '--yes: "no" is not true or false')
  assert.is(refusal(['--to']), '--to needs a value')
  assert.is(refusal(['--to', '--yes']), '--to needs a value')
  assert.is(refusal(['--to=a', '--to=b']), '--to is given more than once')
  assert.match(
    refusal([], { PGCM_POSTGRES_PORT: '70000' }),
    /PGCM_POSTGRES_PORT: "70000" is not a whole number/,
  )
  assert.match(refusal([], { PGCM_PAUSE_EXPIRY: '10ms' }), /at least 1s/)
  withFile('pause-timeout = 5', (file) =>
    assert.match(refusal(['--config-file', file]), /5 is not a duration/),
  )
  withFile('pause-timeout = ', (file) => assert.match(refusal(['--config-file', file]), /pgcm\.toml: /))
  assert.match(refusal(['--config-file=/nonexistent/x.toml']), /cannot read the settings: ENOENT/)
})

test('an error in the file does not show the password, whichever line is wrong', () => {
  const secret = 'pgbouncer-password = "hunter2"\n'
  for (const [text, says] of [
    [`${secret}pause-timeout = 5s`, /pgcm\.toml: Invalid TOML document: [^\n]+, line 2, column 18$/],
    ['pgbouncer-password = "hunter2', /, line 1, column \d+$/],
    ['pgbouncer-password = 1234567', /pgcm\.toml: pgbouncer-password: its value is not a string$/],
    [`${secret}pause-timeout = 5`, /pause-timeout: 5 is not a duration/],
  ] as const)
    withFile(text, (file) => {
      const said = refusal(['--config-file', file])
      assert.match(said, says)
      assert.not.match(said, /hunter2|1234567/)
    })
})

test('numbers that look like words stay words', () => {
  const { config, words } = load('failover', ['--to=007', '012', '--', '--yes'], nowhere)
  assert.equal([config.to, config.yes, words], ['007', false, ['012', '--yes']])
})

test('lists', () => {
  const { config } = load(
    'failover',
    ['--failover-api-endpoints=a:1, b:2', '--failover-api-endpoints', 'c:3'],
    nowhere,
  )
  assert.equal(config.failoverApiEndpoints, ['a:1', 'b:2', 'c:3'])
  withFile('pgbouncer-databases = ["app", "shop"]', (file) => {
    assert.equal(load('proxy', ['--config-file', file], {}).config.pgbouncerDatabases, ['app', 'shop'])
  })
})

test('the words of a remote command are not read as options', () => {
  const { config, words } = load('playground', ['--name', 'x', 'ssh', 'pg01', 'ls', '-l', '--yes'], {})
  assert.equal([config.name, config.yes, words], ['x', false, ['ssh', 'pg01', 'ls', '-l', '--yes']])
})

test('switches', () => {
  const { config } = load('failover', ['-y', '--no-json', '--dry-run=false'], nowhere)
  assert.equal([config.yes, config.json, config.dryRun], [true, false, false])
})

test.run()
