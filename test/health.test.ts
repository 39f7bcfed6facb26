/** The health check of both daemons: it is false when any one of the parts fails, and names that one. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Api, connect } from '../lib/api.ts'
import { until } from '../lib/wait.ts'
import { freePort, withDaemon } from './daemon.ts'
import { member, Store } from './etcdserver.ts'
import { pooler } from './pooler.ts'
import { supervise } from './supervised.ts'

const path = (name: string) => new URL(name, import.meta.url).pathname

async function world(
  body: (world: {
    dir: string
    etcd: Awaited<ReturnType<typeof member>>
    bouncer: Awaited<ReturnType<typeof pooler>>
    api: Api
    port: number
  }) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-health-'))
  const store = new Store()
  store.put('/postgres/master', '10.0.0.1')
  const etcd = await member(store)
  const bouncer = await pooler(join(dir, 'pgbouncer.ini'))
  const port = await freePort()
  const api = connect(`127.0.0.1:${port}`, null)
  try {
    await body({ dir, etcd, bouncer, api, port })
  } finally {
    api.close()
    etcd.close()
    bouncer.close()
    rmSync(dir, { recursive: true })
  }
}

/** Waits until the health check names these parts, and no others, as failing. */
async function fails(api: Api, wanted: string[]): Promise<void> {
  let said = ''
  const settled = async () => {
    const health = await api.healthCheck({ deadlineMs: 10_000 }).catch((error) => {
      said = error.message
    })
    if (!health) return false
    said = JSON.stringify(health.components)
    const failing = health.components.filter(({ ok }) => !ok).map(({ name }) => name)
    if (String(failing) !== String(wanted)) return false
    assert.is(health.healthy, wanted.length === 0)
    return true
  }
  const what = wanted.length > 0 ? `${wanted} fails` : 'all is well'
  await until(what, { timeoutMs: 30_000, everyMs: 50 }, settled).catch((error) => {
    throw new Error(`${error.message}; it says ${said}`)
  })
}

test('a Postgres node is healthy only with its PgBouncer, Pacemaker in quorum, PostgreSQL and etcd', async () => {
  await world(async ({ dir, etcd, bouncer, api, port }) => {
    const postgres = await pooler(join(dir, 'none'))
    const daemon = supervise(dir, 1, etcd.url, [3, 3], {
      PGCM_BIND_ADDRESS: `127.0.0.1:${port}`,
      PGCM_PGBOUNCER_SOCKET_DIR: '127.0.0.1',
      PGCM_PGBOUNCER_PORT: String(bouncer.port),
      PGCM_POSTGRES_SOCKET_DIR: '127.0.0.1',
      PGCM_POSTGRES_PORT: String(postgres.port),
    })
    const monitor = join(dir, daemon.name, 'crm_mon')
    const whole = readFileSync(monitor, 'utf8')
    const write = (text: string) => {
      writeFileSync(`${monitor}.new`, text)
      renameSync(`${monitor}.new`, monitor)
    }
    const unplugged = whole.replace('with_quorum="true"', 'with_quorum="false"')
    assert.is.not(unplugged, whole)
    try {
      await fails(api, [])
      for (const [part, spoil, mend] of [
        ['pgbouncer', () => (bouncer.state.refuses = true), () => (bouncer.state.refuses = false)],
        ['pacemaker', () => write(unplugged), () => write(whole)],
        ['pacemaker', () => renameSync(monitor, `${monitor}.away`), () => write(whole)],
        ['postgresql', () => (postgres.state.refuses = true), () => (postgres.state.refuses = false)],
        ['etcd', () => (etcd.state.mode = 'refuse'), () => (etcd.state.mode = 'answer')],
      ] as const) {
        spoil()
        await fails(api, [part])
        mend()
        await fails(api, [])
      }
    } finally {
      await daemon.stop()
      postgres.close()
    }
  })
})

test('an app node is healthy only with its PgBouncer and etcd', async () => {
  await world(async ({ dir, etcd, bouncer, api, port }) => {
    const flags = [
      ...['--api', '--insecure', `--bind-address=127.0.0.1:${port}`, `--etcd-endpoints=${etcd.url}`],
      ...['--pgbouncer-socket-dir=127.0.0.1', `--pgbouncer-port=${bouncer.port}`],
      `--pgbouncer-config-file=${join(dir, 'pgbouncer.ini')}`,
      `--pgbouncer-config-template-file=${path('../templates/pgbouncer.ini.ejs')}`,
    ]
    await withDaemon('proxy', flags, {}, async () => {
      await fails(api, [])
      bouncer.state.refuses = true
      await fails(api, ['pgbouncer'])
      bouncer.state.refuses = false
      await fails(api, [])
      etcd.state.mode = 'refuse'
      await fails(api, ['etcd'])
    })
  })
})

test.run()
