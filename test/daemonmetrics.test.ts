/** The daemons themselves, as processes: etcd, PgBouncer's console and Pacemaker's programs are ours. */
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect as dial } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { connect } from '../lib/api.ts'
import { version } from '../lib/cli.ts'
import { type Metric, table } from '../lib/metrictable.ts'
import { sh } from '../lib/sh.ts'
import { now, since, until } from '../lib/wait.ts'
import { type Daemon, freePort, values, withDaemon } from './daemon.ts'
import { member, Store } from './etcdserver.ts'
import { pooler } from './pooler.ts'
import { promtool } from './promtool.ts'

const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 20_000, everyMs: 10 }, probe)
const path = (name: string) => fileURLToPath(new URL(name, import.meta.url))

interface World {
  store: Store
  etcd: Awaited<ReturnType<typeof member>>
  bouncer: Awaited<ReturnType<typeof pooler>>
  dir: string
  flags: string[]
}

async function world(body: (world: World) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-metrics-'))
  const ini = join(dir, 'pgbouncer.ini')
  const store = new Store()
  const etcd = await member(store)
  const bouncer = await pooler(ini)
  const flags = [
    `--etcd-endpoints=${etcd.url}`,
    '--insecure',
    '--pgbouncer-socket-dir=127.0.0.1',
    `--pgbouncer-port=${bouncer.port}`,
  ]
  try {
    await body({ store, etcd, bouncer, dir, flags })
  } finally {
    etcd.close()
    bouncer.close()
    rmSync(dir, { recursive: true, force: true })
  }
}

/** The names on a page are those that the table promises for this daemon; `some` may be missing: they need an occasion. */
function complete(page: string, script: 'supervise' | 'proxy', some: Metric[]) {
  const promised = Object.entries(table).filter(([, { on }]) => (on as readonly string[]).includes(script))
  const found = [...page.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name)
  assert.equal(
    found.filter((name) => !some.includes(name as Metric)),
    promised.map(([name]) => name).filter((name) => !some.includes(name as Metric)),
  )
  for (const [, name, list] of page.matchAll(/^([a-z_]+?)(?:_bucket|_sum|_count)?\{(.*)\} /gm)) {
    const { labels = [] } = table[name as Metric] as { labels?: readonly string[] }
    const shown = [...(list ?? '').matchAll(/([a-z_]+)="/g)].map(([, label]) => label)
    assert.equal(
      shown.filter((label) => label !== 'le'),
      labels,
      name,
    )
  }
}

/** What pgcm-proxy needs to write a file for its PgBouncer. */
const files = (dir: string) => [
  `--pgbouncer-config-file=${join(dir, 'pgbouncer.ini')}`,
  `--pgbouncer-config-template-file=${path('../templates/pgbouncer.ini.ejs')}`,
]

const cluster = (epoch: number, primary: string | null) =>
  JSON.stringify({ epoch, primary, last: primary, nodes: [], updatedAt: '' })

test('pgcm-proxy tells what it read, where it points PgBouncer, and whether that worked', async () => {
  await world(async ({ store, etcd, bouncer, dir, flags }) => {
    const settings = join(dir, 'pgcm.toml')
    writeFileSync(settings, '# a file\n')
    store.put('/postgres/master', '10.0.0.1')
    store.put('/postgres/cluster', cluster(7, 'pg01'))
    const own = [
      ...files(dir),
      '--pgbouncer-retry-interval=100ms',
      '--etcd-retry-interval=100ms',
      '--api',
      `--bind-address=127.0.0.1:${await freePort()}`,
    ]
    const spawned = now()
    await withDaemon('proxy', [...flags, ...own], { PGCM_CONFIG_FILE: settings }, async (daemon) => {
      const { shows, happened, page } = daemon
      const first = await shows({
        'pgcm_published_primary{node="pg01",address="10.0.0.1"}': 1,
        pgcm_published_epoch: 7,
        'pgcm_pointed{address="10.0.0.1"}': 1,
        pgcm_drift: 0,
        pgcm_reload_ok: 1,
        pgcm_etcd_watch_up: 1,
        pgcm_paused: 0,
        'pgcm_reloads_total{result="failed"}': 0,
      })
      assert.is(
        first[
          `pgcm_build_info{daemon="proxy",kind="app",version="${version()}",node_version="${process.version}"}`
        ],
        1,
      )
      const { hash } = await happened('daemon.start')
      assert.is(first['pgcm_config_hash{kind="app"}'], Number.parseInt(String(hash), 16))
      const lived = since(spawned) / 1000
      assert.ok((first.pgcm_etcd_read_age_seconds ?? lived) < lived)
      assert.ok(Math.abs((first.pgcm_reload_timestamp_seconds ?? 0) - Date.now() / 1000) < 20)
      assert.ok((first.pgcm_reload_duration_seconds ?? lived) < lived)
      assert.ok(
        (first.process_resident_memory_bytes ?? 0) > 20e6 && (first.process_cpu_seconds_total ?? 0) > 0,
      )
      complete(await page(), 'proxy', [
        'pgcm_log_events_total',
        'pgcm_trouble',
        'pgcm_api_call_duration_seconds',
      ])

      bouncer.state.refuses = true
      store.put('/postgres/master', '10.0.0.2')
      const failing = await shows({
        'pgcm_pointed{address="10.0.0.1"}': 1,
        pgcm_drift: 1,
        pgcm_reload_ok: 0,
        'pgcm_trouble{event="proxy.point"}': 1,
      })
      assert.ok((failing['pgcm_reloads_total{result="failed"}'] ?? 0) > 0)
      bouncer.state.refuses = false
      await shows({
        'pgcm_pointed{address="10.0.0.2"}': 1,
        pgcm_drift: 0,
        pgcm_reload_ok: 1,
        'pgcm_trouble{event="proxy.point"}': 0,
      })

      store.put('/postgres/cluster', cluster(7, null))
      await shows({ 'pgcm_published_primary{node="",address="10.0.0.2"}': 0 })

      etcd.state.mode = 'refuse'
      const { pgcm_etcd_read_age_seconds: age = 0 } = await shows({ 'pgcm_trouble{event="etcd.read"}': 1 })
      etcd.state.mode = 'answer'
      const { pgcm_etcd_read_age_seconds: then = 99 } = await shows({ 'pgcm_trouble{event="etcd.read"}': 0 })
      assert.ok(then < age, `${then} s, ${age} s`)
    })
  })
})

test('pgcm-proxy drops a client that hangs on the address that PgBouncer has left, and no other', async () => {
  await world(async ({ store, bouncer, dir, flags }) => {
    const { state } = bouncer
    const kills = () => state.said.filter((query) => query.startsWith('KILL'))
    state.hangsOn = '10.0.0.1'
    store.put('/postgres/master', '10.0.0.1')
    await withDaemon('proxy', [...flags, ...files(dir)], {}, async ({ shows, happened }) => {
      await shows({ 'pgcm_pointed{address="10.0.0.1"}': 1 })
      assert.equal(kills(), [])
      store.put('/postgres/master', '10.0.0.2')
      assert.is((await happened('pgbouncer.dropped')).connections, 1)
      assert.equal(kills(), ['KILL_CLIENT 7'])
    })
  })
})

/** A directory with a Pacemaker that says what the fixture says. */
function pacemaker(dir: string, fixture: string): string {
  for (const [program, kind] of [
    ['cibadmin', 'cib'],
    ['crm_mon', 'crm_mon'],
  ]) {
    const file = path(`./fixtures/${fixture}.${kind}.xml`)
    writeFileSync(join(dir, String(program)), `#!/bin/sh\n[ ! -e ${dir}/broken ] || exit 1\ncat ${file}\n`)
    chmodSync(join(dir, String(program)), 0o755)
  }
  return `${dir}:${process.env.PATH}`
}

test('pgcm-supervise tells what it sees, what etcd says, and what a failover asked of it', async () => {
  await world(async ({ store, bouncer, dir, flags }) => {
    const apiPort = await freePort()
    const env = { PATH: pacemaker(dir, 'trixie-healthy'), RUNTIME_DIRECTORY: dir }
    store.put('/postgres/master', '10.9.9.9')
    const bind = `--bind-address=127.0.0.1:${apiPort}`
    await withDaemon('supervise', [...flags, bind], env, async (daemon: Daemon) => {
      const { shows, page } = daemon
      const first = await shows({
        'pgcm_seen_primary{node="pg03"}': 1,
        'pgcm_seen_primary{node="pg01"}': 0,
        'pgcm_published_primary{node="pg03",address="10.9.9.9"}': 1,
        pgcm_drift: 0,
        pgcm_quorum: 1,
        pgcm_nodes: 3,
        'pgcm_standbys{state="sync"}': 1,
        pgcm_paused: 0,
        pgcm_paused_until_timestamp_seconds: 0,
        'pgcm_api_calls_total{rpc="pause",code="OK"}': 0,
      })
      assert.is(first.pgcm_seen_epoch, first.pgcm_published_epoch)

      const api = connect(`127.0.0.1:${apiPort}`, null)
      try {
        const pause = await api.pause({ deadlineMs: 5000, timeoutMs: 2000, expiryMs: 60_000 })
        const held = values(await page())
        assert.ok(bouncer.state.paused)
        assert.is(held.pgcm_paused, 1)
        assert.is(held.pgcm_paused_since_timestamp_seconds, pause.createdAt.getTime() / 1000)
        assert.is(held.pgcm_paused_until_timestamp_seconds, pause.expiresAt.getTime() / 1000)
        await api.resume({ deadlineMs: 5000 })
        await api.checkpoint({ deadlineMs: 5000 }).catch(() => {}) // there is no PostgreSQL
        const after = values(await page())
        assert.equal([after.pgcm_paused, after.pgcm_paused_until_timestamp_seconds], [0, 0])
        assert.is(after['pgcm_api_calls_total{rpc="pause",code="OK"}'], 1)
        assert.is(after['pgcm_api_calls_total{rpc="resume",code="OK"}'], 1)
        assert.is(after['pgcm_api_calls_total{rpc="checkpoint",code="OK"}'], 0)
        assert.is(after['pgcm_api_calls_total{rpc="checkpoint",code="UNKNOWN"}'], 1)
        assert.is(after['pgcm_api_call_duration_seconds_count{rpc="pause"}'], 1)
        complete(await page(), 'supervise', ['pgcm_trouble', 'pgcm_standby_lag_seconds'])
      } finally {
        api.close()
      }

      const stale = Number(first.pgcm_seen_epoch) + 1
      store.put('/postgres/cluster', cluster(stale, 'pg01'))
      await shows({ pgcm_drift: 1, pgcm_published_epoch: stale })

      writeFileSync(join(dir, 'broken'), '')
      await shows({ 'pgcm_trouble{event="pacemaker.read"}': 1, pgcm_quorum: 1 })
    })
  })
})

for (const script of ['supervise', 'proxy'] as const) {
  test(`pgcm-${script} that is stopped while PgBouncer is paused resumes it first, and leaves no demotion held`, async () => {
    await world(async ({ bouncer, dir, flags }) => {
      const bind = `127.0.0.1:${await freePort()}`
      const own = script === 'proxy' ? ['--api', ...files(dir)] : []
      const env = { PATH: pacemaker(dir, 'trixie-healthy'), RUNTIME_DIRECTORY: dir }
      const hold = join(dir, 'hold')
      let events: Daemon['events'] = () => []
      await withDaemon(script, [...flags, ...own, `--bind-address=${bind}`], env, async (daemon) => {
        events = daemon.events
        await daemon.happened('daemon.ready')
        if (script === 'supervise') writeFileSync(hold, '')
        const api = connect(bind, null)
        await api.pause({ deadlineMs: 20_000, timeoutMs: 2000, expiryMs: 2000 }).finally(() => api.close())
      })
      const said = events().map(({ event }) => event)
      assert.ok(said.includes('daemon.waits'), said.join(' '))
      assert.equal([bouncer.state.paused, existsSync(hold)], [false, false])
    })
  })
}

test('what the daemons say is what Prometheus reads without complaint', async () => {
  await world(async ({ dir, flags }) => {
    const env = { PATH: pacemaker(dir, 'trixie-healthy'), RUNTIME_DIRECTORY: dir }
    await withDaemon('supervise', [...flags, '--bind-address=127.0.0.1:0'], env, async ({ shows, page }) => {
      await shows({ pgcm_quorum: 1, pgcm_etcd_watch_up: 1 })
      assert.is((await promtool(['check', 'metrics'], await page())).trim(), '')
    })
  })
})

test('a reader that holds its connections stops nothing', async () => {
  await world(async ({ store, dir, flags }) => {
    const env = { PATH: pacemaker(dir, 'trixie-healthy'), RUNTIME_DIRECTORY: dir }
    await withDaemon('supervise', [...flags, '--bind-address=127.0.0.1:0'], env, async ({ port, shows }) => {
      await shows({ pgcm_quorum: 1, pgcm_etcd_watch_up: 1 })
      const idle = Array.from({ length: 8 }, () => dial(port, '127.0.0.1').on('error', () => {}))
      store.delete('/postgres/cluster')
      await soon('the key is back', () => store.keys.has('/postgres/cluster'))
      for (const socket of idle) socket.destroy()
      await shows({ pgcm_drift: 0 })
    })
  })
})

test('a key that vanishes as it is written comes back', async () => {
  await world(async ({ store, dir, flags }) => {
    const env = { PATH: pacemaker(dir, 'trixie-healthy'), RUNTIME_DIRECTORY: dir }
    const put = store.put.bind(store)
    let puts = 0
    store.put = (key, ...rest) => {
      put(key, ...rest)
      if (key === '/postgres/cluster' && ++puts === 1) store.delete(key)
    }
    await withDaemon('supervise', [...flags, '--bind-address=127.0.0.1:0'], env, async () => {
      await soon('the key is back', () => puts > 1 && store.keys.has('/postgres/cluster'))
    })
  })
})

test('an address that is none ends a daemon, and its last line says so', async () => {
  const argv = [path('../bin/pgcm-proxy'), '--proxy-metrics-address=nonsense', '--config-file=/dev/null']
  const { stdout, stderr } = await sh(argv, { okCodes: [2], timeoutMs: 120_000 })
  assert.is(stdout, '')
  assert.match(stderr, /\npgcm-proxy: proxy-metrics-address: nonsense is not \[host\]:port\n$/)
})

test.run()
