// deadline: 900 s
import pg from 'pg'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../../lib/wait.ts'
import { healthy, primary, standby, streamsTo } from './cluster.ts'
import { killAgentBefore } from './faults.ts'
import { address, failing, inside, psql, secret } from './machines.ts'
import { failover, moved, rejoin } from './moves.ts'
import { note, scenario, underLoad } from './scenario.ts'

scenario('the cluster is healthy within 30 s', 40, async () => {
  await healthy(30_000)
})

scenario(
  'under load, the primary moves to the sync standby without an error, and comes back',
  120,
  async () => {
    const report = await underLoad(async (load) => {
      const old = (await primary()) as string
      const sync = await standby('HS:sync')
      await failover()
      await moved(sync)
      assert.ok(await load.commitAfter(2_000))
      await rejoin(old)
      await healthy(30_000)
      assert.is(await primary(), sync)
      assert.ok(await streamsTo(sync, old))
    })
    assert.equal(report.errorKinds, {})
    note(
      `failover: longest client gap ${Math.round(report.longestGapMs)} ms, ${report.commits} commits, 0 errors, 0 missing`,
    )
  },
)

scenario('ten failovers and rejoins in a row, under load, are all clean', 600, async () => {
  const gaps: number[] = []
  const report = await underLoad(async (load) => {
    for (let round = 1; round <= 10; round++) {
      const old = (await primary()) as string
      const sync = await standby('HS:sync')
      const since = load.now()
      await failover()
      await moved(sync)
      assert.ok(await load.commitAfter(2_000))
      gaps.push(Math.round(load.figures(since).longestGapMs))
      await rejoin(old)
      await healthy(30_000)
    }
  })
  assert.equal(report.errorKinds, {})
  note(`ten failovers: client gaps ${gaps.sort((a, b) => a - b).join(', ')} ms, 0 errors, 0 missing`)
})

/** PostgreSQL is shut down as soon as clients are held, before Pacemaker demotes it: between the two, Pacemaker thinks again. */
for (const [why, command] of Object.entries({
  'an attribute changes': 'attrd_updater -n pgcm-test -U $$ -d 0',
  'the move is taken back':
    'cibadmin --delete --xpath "//rsc_location[starts-with(@id,\\"pgcm-move-\\")]"; attrd_updater -n pgcm-test -U $$ -d 0',
})) {
  scenario(
    `${why} between the shutdown and the demotion: the standby is promoted, without an error`,
    120,
    async () => {
      const old = (await primary()) as string
      const sync = await standby('HS:sync')
      const report = await underLoad(async (load) => {
        const since = load.now()
        const { hits, restore } = await killAgentBefore(
          [old],
          '\trm -f "$run/holding" "$hold.go"',
          `${command}; sleep 1`,
        )
        try {
          await failover()
        } finally {
          assert.equal(await hits(), [old])
          await restore()
        }
        await moved(sync)
        assert.ok(await load.commitAfter(2_000))
        note(`${why}: longest client gap ${Math.round(load.figures(since).longestGapMs)} ms`)
        await rejoin(old)
        await healthy(30_000)
      })
      assert.equal(report.errorKinds, {})
    },
  )
}

scenario('an open transaction makes pgcm-failover give up with exit 1, naming who holds it', 60, async () => {
  const old = (await primary()) as string
  const client = new pg.Client({
    host: address('app01'),
    port: 6432,
    user: 'app',
    password: secret('app'),
    database: 'app',
  })
  await client.connect()
  await client.query('begin')
  await client.query('create temp table held (x int) on commit drop')
  try {
    const error = await failing(failover('--pause-timeout', '2s'))
    const said = `${error.stdout}${error.stderr}`
    assert.is(error.code, 1, said)
    const host = address('app01').replace(/\d+$/, '1').replaceAll('.', '\\.')
    assert.match(said, new RegExp(`app: user app from ${host}:\\d+, idle in transaction for \\d+\\.\\d s`))
    assert.is((await client.query('select 1 as one')).rows[0].one, 1)
    assert.is((await client.query('commit')).command, 'COMMIT')
  } finally {
    await client.end()
  }
  assert.is(await primary(), old)
  await moved(old)
})

scenario(
  'the new timeline begins early in a WAL file, so that standbys have little to fetch',
  60,
  async () => {
    const to = (await primary()) as string
    const epoch = Number(
      await psql(to, "select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"),
    )
    const file = `pg_wal/${epoch.toString(16).toUpperCase().padStart(8, '0')}.history`
    const fork = (await psql(to, `select pg_read_file('${file}')`)).trim().split('\n').at(-1)?.split('\t')[1]
    const offset = Number(await psql(to, `select ('${fork}'::pg_lsn - '0/0')::bigint % (16 * 1024 * 1024)`))
    assert.ok(offset < 4 * 1024 * 1024, `${offset} bytes into it`)
  },
)

scenario('--rejoin: the whole round trip is one command, and the history shows it', 90, async () => {
  const old = (await primary()) as string
  const sync = await standby('HS:sync')
  await failover('--rejoin')
  await moved(sync)
  assert.ok(await streamsTo(sync, old))
  await healthy(30_000)
  const { stdout } = await inside('app01', ['pgcm-status', '--history'])
  assert.match(stdout.trim().split('\n').at(-1) ?? '', `${old} -> ${sync}  held `)
})

scenario('--drain terminate ends the old transaction that blocks the pause, and no other', 90, async () => {
  const connect = async () => {
    const where = {
      host: address('app01'),
      port: 6432,
      user: 'app',
      password: secret('app'),
      database: 'app',
    }
    const client = new pg.Client(where)
    client.on('error', () => {})
    await client.connect()
    return client
  }
  const [stuck, quick] = [await connect(), await connect()]
  await stuck.query('begin')
  await stuck.query('create temp table held (x int) on commit drop')
  await until('it is old', { timeoutMs: 10_000, everyMs: 250 }, async () => {
    const age = `select count(*) from pg_stat_activity where usename = 'app' and now() - xact_start > interval '2 s'`
    return (await psql((await primary()) as string, age)) === '1'
  })
  const sync = await standby('HS:sync')
  try {
    await failover('--drain', 'terminate:2s', '--rejoin')
    await moved(sync)
    assert.match(await stuck.query('select 1').then(String, String), /rror/)
    assert.is((await quick.query('select 1 as one')).rows[0].one, 1)
  } finally {
    for (const client of [stuck, quick]) await client.end().catch(() => {})
  }
  await healthy(30_000)
})

test.run()
