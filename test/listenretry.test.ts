/** A daemon whose ports are taken, or whose settings are refused: what it owes to others it does all the same. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { connect } from '../lib/api.ts'
import { systemClock } from '../lib/pausekeeper.ts'
import { sh } from '../lib/sh.ts'
import { until } from '../lib/wait.ts'
import { withDaemon } from './daemon.ts'
import { member, Store } from './etcdserver.ts'
import { pooler } from './pooler.ts'
import { address, supervise } from './supervised.ts'

const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 30_000, everyMs: 10 }, probe)
const path = (name: string) => new URL(name, import.meta.url).pathname

/** A port of 127.0.0.1 that somebody else has, until it is given back. */
async function takenPort() {
  const server = createServer().unref() // a test that fails never frees it
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return { port, free: () => new Promise((resolve) => server.close(resolve)) }
}

/** etcd, and a PgBouncer that an earlier run of the daemon with its state in `home` has left paused. */
async function paused(
  leftMs: number,
  body: (world: {
    dir: string
    home: string
    store: Store
    etcd: string
    bouncer: Awaited<ReturnType<typeof pooler>>
  }) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-insist-'))
  const home = join(dir, 'node3')
  mkdirSync(home)
  const store = new Store()
  const etcd = await member(store)
  const bouncer = await pooler(join(dir, 'pgbouncer.ini'))
  bouncer.state.paused = true
  const { boot, uptime } = systemClock()
  const pause = { owner: 'somebody', createdAt: '', expiresAt: '', deadline: uptime() + leftMs, boot }
  writeFileSync(join(home, 'pause.json'), JSON.stringify(pause))
  try {
    await body({ dir, home, store, etcd: etcd.url, bouncer })
  } finally {
    etcd.close()
    bouncer.close()
    rmSync(dir, { recursive: true })
  }
}

test('without its ports pgcm-supervise ends the pause it found, publishes, gets them once they are free', async () => {
  await paused(0, async ({ dir, store, etcd, bouncer }) => {
    const [api, metrics] = [await takenPort(), await takenPort()]
    const daemon = supervise(dir, 3, etcd, [3, 3], {
      PGCM_BIND_ADDRESS: `127.0.0.1:${api.port}`,
      PGCM_SUPERVISE_METRICS_ADDRESS: `127.0.0.1:${metrics.port}`,
      PGCM_PGBOUNCER_SOCKET_DIR: '127.0.0.1',
      PGCM_PGBOUNCER_PORT: String(bouncer.port),
    })
    const said = (event: string) => daemon.log().filter((line) => line.event === event)
    const client = connect(`127.0.0.1:${api.port}`, null)
    try {
      await soon('it resumes', () => !bouncer.state.paused)
      await soon('it publishes', () => store.keys.get('/postgres/master')?.value.toString() === address(3))
      const doors = ['api.bind', 'metrics.listen']
      await soon('both were tried again', () => doors.every((event) => said(event).length >= 2))
      for (const event of doors) {
        assert.is(said(event).filter(({ level }) => level === 'error').length, 1, `${event} is said once`)
        assert.match(said(event)[0]?.error ?? '', /cannot listen on 127\.0\.0\.1:\d+: listen EADDRINUSE/)
      }
      await Promise.all([api.free(), metrics.free()])
      await soon('both are had', () => doors.every((event) => said(`${event}.cleared`).length === 1))
      assert.is((await fetch(`http://127.0.0.1:${metrics.port}/metrics`)).status, 200)
      assert.is((await client.status({ deadlineMs: 10_000 })).api, 'supervise')
    } finally {
      client.close()
      await daemon.stop()
    }
  })
})

test('pgcm-proxy without its API points PgBouncer, and names itself to others once they can reach it', async () => {
  await paused(0, async ({ dir, store, etcd, bouncer }) => {
    store.put('/postgres/master', '10.0.0.1')
    const api = await takenPort()
    const flags = [
      ...['--api', '--insecure', `--bind-address=127.0.0.1:${api.port}`, `--etcd-endpoints=${etcd}`],
      ...['--pgbouncer-socket-dir=127.0.0.1', `--pgbouncer-port=${bouncer.port}`],
      `--pgbouncer-config-file=${join(dir, 'pgbouncer.ini')}`,
      `--pgbouncer-config-template-file=${path('../templates/pgbouncer.ini.ejs')}`,
    ]
    const registered = () => [...store.keys.keys()].filter((key) => key.startsWith('/postgres/proxies/'))
    await withDaemon('proxy', flags, {}, async ({ happened, shows }) => {
      await happened('api.bind')
      await shows({ 'pgcm_pointed{address="10.0.0.1"}': 1, 'pgcm_trouble{event="api.bind"}': 1 })
      assert.equal(registered(), [])
      await api.free()
      await soon('it is registered', () => registered().length === 1)
      await shows({ 'pgcm_trouble{event="api.bind"}': 0 })
    })
  })
})

test('a daemon whose settings are refused ends the pause that it found, and then itself', async () => {
  await paused(1000, async ({ home, bouncer }) => {
    for (const [script, flag] of [
      ['pgcm-supervise', '--etcd-endpoints=nonsense'],
      ['pgcm-supervise', '--tls-ca-file=/nonexistent'],
      ['pgcm-supervise', '--supervise-metrics-address=nonsense'],
      ['pgcm-proxy', '--tls-ca-file=/nonexistent'],
      ['pgcm-proxy', '--proxy-metrics-address=nonsense'],
    ] as const) {
      bouncer.state.paused = true
      const flags = [
        ...[flag, `--state-dir=${home}`, ...(script === 'pgcm-proxy' ? ['--api'] : [])],
        ...['--pgbouncer-socket-dir=127.0.0.1', `--pgbouncer-port=${bouncer.port}`],
      ]
      const env = { ...process.env, PGCM_CONFIG_FILE: '/dev/null' }
      const { stderr } = await sh([path(`../bin/${script}`), ...flags], {
        env,
        okCodes: [2],
        timeoutMs: 60_000,
      })
      assert.not(bouncer.state.paused, stderr)
      const { boot, uptime } = systemClock()
      writeFileSync(join(home, 'pause.json'), JSON.stringify({ owner: '', deadline: uptime() + 1000, boot }))
    }
  })
})

test.run()
