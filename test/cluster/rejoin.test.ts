// deadline: 840 s
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { CommandFailed } from '../../lib/sh.ts'
import { until } from '../../lib/wait.ts'
import { healthy, primary, primaryWithin, streamsTo, turnOn } from './cluster.ts'
import { inside, isOn, killPostmaster, playground, psql } from './machines.ts'
import { note, scenario } from './scenario.ts'

const rejoin = (machine: string, ...words: string[]) =>
  inside(machine, ['pgcm-rejoin', '--yes', '--json', ...words], { timeoutMs: 90_000 })

const events = (stdout: string) =>
  stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

/**
 * A former primary that stays out, with a transaction that nobody else has: written while it was cut off, by a session that did not
 * wait for a standby, then crashed. Gives its name, and the new primary's.
 */
async function diverge(table: string): Promise<[former: string, primary: string]> {
  const old = (await primary()) as string
  const write = `set synchronous_commit = local; create table ${table} (x int); insert into ${table} select generate_series(1, 1000)`
  await playground('partition', [old])
  await psql(old, write, 'app')
  await killPostmaster(old)
  const name = await primaryWithin(20_000, old)
  await playground('heal')
  await until(`${old} is a machine of the cluster again`, { timeoutMs: 90_000, everyMs: 500 }, async () => {
    if (!isOn(old)) return false
    const { stdout } = await inside(name, ['crm_mon', '-Afr1'])
    return stdout.includes(`pgcm-rejoin on ${old}`)
  })
  return [old, name]
}

const isGone = async (old: string, table: string) =>
  assert.is(await psql(old, `select to_regclass('${table}') is null`, 'app'), 't')

scenario('a diverged former primary is rewound, and what is lost is written down first', 180, async () => {
  const [old, name] = await diverge('only_there')
  const { stdout } = await rejoin(old)
  const said = events(stdout)
  const evidence = said.find(({ event }) => event === 'evidence')
  assert.is(evidence?.cure, 'rewind', stdout)
  assert.match(String(evidence?.verdict), /^diverged: pg_rewind to /)
  assert.match(JSON.stringify(evidence?.lines), /lost: \d+ transactions? that committed here/)
  const receipt = said.at(-1)
  assert.is(receipt?.ok, true)
  assert.is(receipt?.primary, name)
  const written = said.flatMap(({ step, text }) => (step === 'write down' && text ? [String(text)] : []))[0]
  const file = written?.match(/\/\S+/)?.[0]
  assert.ok(file, `the receipt is a file: ${written}`)
  const kept = (await inside(old, ['cat', file])).stdout
  assert.match(kept, /COMMIT/)
  assert.ok(await streamsTo(name, old))
  await isGone(old, 'only_there')
  note(`rewound: ${JSON.stringify((receipt as { steps?: unknown }).steps)}`)
})

const HELD = '/var/tmp/pg_rewind.held'

/** Calls `end`, which has to end pgcm-rejoin, while that runs on `old` and its pg_rewind is held at the first step into the data. */
async function inRewind(old: string, end: () => Promise<void>): Promise<void> {
  const real = (await inside(old, 'command -v /usr/lib/postgresql/*/bin/pg_rewind')).stdout.trim()
  const held = `#!/bin/sh\\ncase " $* " in *" --dry-run "*) exec ${real}.real "$@" ;; esac\\necho $$ >${HELD}\\nexec sleep 60\\n`
  await inside(old, `mv ${real} ${real}.real && printf '${held}' >${real} && chmod 755 ${real}`)
  try {
    const ended = rejoin(old).catch((error) => error)
    await until('pg_rewind is at work', { timeoutMs: 60_000, everyMs: 50 }, () =>
      inside(old, `cat ${HELD}`).then(
        ({ stdout }) => stdout.trim() !== '',
        () => false,
      ),
    )
    await end()
    const { code } = await ended
    assert.ok(code !== 0, 'it was ended')
  } finally {
    await turnOn(old)
    await inside(old, `mv ${real}.real ${real}; rm -f ${HELD}`)
  }
}

scenario(
  'pgcm-rejoin is killed in pg_rewind: PostgreSQL stays down, and a second run ends right',
  240,
  async () => {
    const [old, name] = await diverge('only_there_too')
    await inRewind(old, async () => {
      await inside(old, `kill -9 $(pgrep -f "node.*[p]gcm-rejoin") $(cat ${HELD})`)
    })
    await inside(old, ['crm_resource', '--cleanup', '--resource', 'Postgresql', '--node', old])
    await until(
      'crm_mon says that the rejoin was interrupted',
      { timeoutMs: 30_000, everyMs: 500 },
      async () => {
        const { stdout } = await inside(name, ['crm_mon', '-Afr1'])
        return stdout.includes('pgcm-rejoin was interrupted: run it again')
      },
    )
    const { stdout } = await rejoin(old)
    assert.is(events(stdout).at(-1)?.ok, true, stdout)
    assert.ok(await streamsTo(name, old))
    await isGone(old, 'only_there_too')
    await healthy(30_000)
  },
)

scenario('the machine dies while pg_rewind writes: the next run takes a base backup', 240, async () => {
  const [old, name] = await diverge('only_there_thirdly')
  await inRewind(old, async () => {
    await playground('kill', [old])
  })
  const { stdout } = await until(
    `${old} is a machine of the cluster again`,
    { timeoutMs: 90_000, everyMs: 500 },
    () =>
      rejoin(old).catch((error) => {
        if (error instanceof CommandFailed && error.code === 2) return undefined
        throw error
      }),
  )
  assert.match(JSON.stringify(events(stdout).find(({ event }) => event === 'evidence')), /base backup/)
  assert.is(events(stdout).at(-1)?.ok, true, stdout)
  assert.ok(await streamsTo(name, old))
  await isGone(old, 'only_there_thirdly')
  await healthy(30_000)
})

scenario('a former primary without its data directory gets a base backup', 180, async () => {
  const old = (await primary()) as string
  await killPostmaster(old)
  const name = await primaryWithin(20_000, old)
  const { stdout: dir } = await inside(old, 'echo /var/lib/postgresql/*/main')
  await inside(old, `rm -rf ${dir.trim()}`)
  const { stdout } = await rejoin(old)
  const said = events(stdout)
  assert.is(said.find(({ event }) => event === 'evidence')?.cure, 'base backup', stdout)
  assert.is(said.at(-1)?.ok, true)
  assert.ok(await streamsTo(name, old))
  await healthy(30_000)
})

test.run()
