/** pgcm-proxy as it is, between an etcd and a PgBouncer that are played here. */
import { spawn } from 'node:child_process'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now, since, until } from '../lib/wait.ts'
import { member, Store } from './etcdserver.ts'
import { fakeConsole } from './fakeconsole.ts'

const shipped = readFileSync(new URL('../templates/pgbouncer.ini.ejs', import.meta.url), 'utf8')
const soon = (what: string, probe: () => unknown, timeoutMs = 30_000) =>
  until(what, { timeoutMs, everyMs: 5 }, probe)

interface World {
  store: Store
  etcd: Awaited<ReturnType<typeof member>>
  dir: string
  socket: string
  ini: string
  template: string
  start(): void
  log(event: string): { level: string; error?: string; kept?: string; status?: string }[]
  /** SIGTERM; gives the exit code. */
  stop(): Promise<number | null>
}

async function withProxy(body: (world: World) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-proxy-'))
  const store = new Store()
  const etcd = await member(store)
  const [ini, template] = [join(dir, 'etc', 'pgbouncer.ini'), join(dir, 'template')]
  writeFileSync(template, shipped)
  let child: ReturnType<typeof spawn> | undefined
  let exited: Promise<number | null> = Promise.resolve(null)
  let text = ''
  const settings = {
    PGCM_CONFIG_FILE: '/dev/null',
    PGCM_LOG_LEVEL: 'debug',
    PGCM_PROXY_METRICS_ADDRESS: '127.0.0.1:0',
    PGCM_ETCD_ENDPOINTS: etcd.url,
    PGCM_PGBOUNCER_SOCKET_DIR: dir,
    PGCM_PGBOUNCER_CONFIG_FILE: ini,
    PGCM_PGBOUNCER_CONFIG_TEMPLATE_FILE: template,
  }
  const program = fileURLToPath(new URL('../bin/pgcm-proxy', import.meta.url))
  try {
    await body({
      ...{ store, etcd, dir, ini, template, socket: join(dir, '.s.PGSQL.6432') },
      start() {
        const started = spawn(process.execPath, [program], {
          env: { ...process.env, ...settings },
          stdio: ['ignore', 'ignore', 'pipe'],
        })
        started.stderr.setEncoding('utf8').on('data', (chunk) => {
          text += chunk
        })
        exited = new Promise((resolve) => started.once('exit', resolve))
        child = started
      },
      log: (event) =>
        text
          .split('\n')
          .filter((line) => line.startsWith('{') && line.endsWith('}'))
          .map((line) => JSON.parse(line))
          .filter((line) => line.event === event),
      async stop() {
        child?.kill('SIGTERM')
        return exited
      },
    })
  } finally {
    child?.kill('SIGKILL')
    await exited
    etcd.close()
    rmSync(dir, { recursive: true })
  }
}

test('it follows the key on one admin connection; the file is replaced as a whole, and only if it differs', async () => {
  await withProxy(async ({ store, dir, socket, ini, start, stop, log }) => {
    store.put('/postgres/master', '10.77.0.1')
    const console = await fakeConsole(socket, ini)
    start()
    await soon('the first file', () => console.state.reloads === 1)
    const first = openSync(ini, 'r')
    const old = readFileSync(ini, 'utf8')
    assert.is(statSync(ini).mode & 0o777, 0o640)
    for (let i = 1; i <= 30; i++) {
      store.put('/postgres/master', `10.77.0.${1 + (i % 2)}`)
      await soon(`reload ${i}`, () => console.state.reloads === 1 + i)
    }
    assert.is(console.state.connections, 1)
    assert.is(readFileSync(first, 'utf8'), old, 'whoever is reading it reads it to its end')
    closeSync(first)
    assert.equal(readdirSync(join(dir, 'etc')), ['pgbouncer.ini'])
    await soon('it has said so', () => log('pgbouncer.pointed').length === 31)
    const { ino, mtimeMs } = statSync(ini)
    store.put('/postgres/master', '10.77.0.1') // the same again, in a new revision
    store.put('/postgres/other', 'x')
    store.put('/postgres/master', 'no address')
    await soon('it complains', () => log('proxy.point').length > 0)
    assert.equal([statSync(ini).ino, statSync(ini).mtimeMs], [ino, mtimeMs])
    assert.is(log('pgbouncer.pointed').length, 31)
    assert.is(await stop(), 0)
    console.close()
  })
})

test('a standby that leaves the readers keeps its clients; those who hang on the former primary are cut off, whatever their database', async () => {
  await withProxy(async ({ store, socket, ini, template, start, stop, log }) => {
    const more = 'app_ro = host=<%= it.readers %>\napp_w = dbname=app host=<%= it.primary %>\n'
    writeFileSync(template, shipped.replace('[pgbouncer]', `${more}[pgbouncer]`))
    const streams = { online: true, role: 'Unpromoted', dataStatus: 'STREAMING|SYNC' }
    const nodes = [2, 3].map((n) => ({ ...streams, name: `pg0${n}`, address: `10.77.0.${n}` }))
    store.put('/postgres/cluster', JSON.stringify({ epoch: 1, nodes }))
    store.put('/postgres/master', '10.77.0.1')
    const console = await fakeConsole(socket, ini)
    start()
    await soon('the first file', () => console.state.reloads === 1)
    console.state.servers = [
      ['app', '10.77.0.1', '1'],
      ['app_ro', '10.77.0.2', '2'],
      ['app_ro', '10.77.0.3', '3'],
      ['app_w', '10.77.0.1', '4'],
    ]
    store.put('/postgres/laggards', '["pg02"]')
    await soon('the readers have changed', () => console.state.reloads === 2)
    assert.match(readFileSync(ini, 'utf8'), /^app_ro = host=10.77.0.3$/m)
    store.put('/postgres/master', '10.77.0.4')
    await soon('it has said so', () => log('pgbouncer.dropped').length > 0)
    assert.is(await stop(), 0)
    assert.equal(console.state.killed, ['1', '4'])
    console.close()
  })
})

test('clients hang on a primary that was lost while pgcm-proxy was down: they are cut off', async () => {
  await withProxy(async ({ store, socket, ini, start, stop, log }) => {
    store.put('/postgres/master', '10.77.0.1')
    const console = await fakeConsole(socket, ini)
    start()
    await soon('the first file', () => log('pgbouncer.pointed').length === 1)
    assert.is(await stop(), 0)
    console.state.servers = [['app', '10.77.0.1', '1']]
    store.put('/postgres/master', '10.77.0.2')
    start()
    await soon('it is cut off', () => log('pgbouncer.dropped').length > 0)
    assert.is(await stop(), 0)
    assert.equal(console.state.killed, ['1'])
    console.close()
  })
})

test('a PgBouncer that is down is tried once a second, said once, and SIGTERM ends it meanwhile', async () => {
  await withProxy(async ({ store, socket, start, stop, log }) => {
    store.put('/postgres/master', '10.77.0.1')
    const tries: number[] = []
    const refusing = createServer((client) => {
      tries.push(now())
      client.destroy()
    })
    await new Promise<void>((resolve) => refusing.listen(socket, resolve))
    start()
    await soon('the fourth try', () => tries.length >= 4)
    const [first = 0, , , fourth = 0] = tries
    assert.ok(fourth - first > 2000, `three more tries in ${fourth - first} ms`) // an interval, of three seconds
    const said = log('proxy.point').filter(({ level }) => level === 'error')
    assert.is(said.length, 1)
    assert.match(said[0]?.error ?? '', /PgBouncer: cannot connect to /)
    assert.is(said[0]?.kept, undefined, 'the file is the new one')
    const asked = now()
    assert.is(await stop(), 0)
    assert.ok(since(asked) < 10_000, `${since(asked)} ms`)
    refusing.close()
  })
})

test('while etcd does not answer it tells systemd that it runs, and follows the key once there is one', async () => {
  await withProxy(async ({ store, etcd, socket, ini, start, log }) => {
    etcd.state.mode = 'refuse'
    const console = await fakeConsole(socket, ini)
    start()
    await soon('it is ready', () => log('daemon.ready')[0]?.status === 'waiting for etcd')
    store.put('/postgres/master', '10.77.0.1')
    etcd.state.mode = 'answer'
    await soon('it has pointed PgBouncer', () => console.state.reloads === 1)
    await soon('it says so', () => log('daemon.ready')[1]?.status === 'the primary is 10.77.0.1')
    console.close()
  })
})

test('a template that is broken is one error; the old file stays, and the mended one is taken', async () => {
  await withProxy(async ({ store, socket, ini, template, start, stop, log }) => {
    store.put('/postgres/master', '10.77.0.1')
    const console = await fakeConsole(socket, ini)
    start()
    await soon('the first file', () => console.state.reloads === 1)
    const old = readFileSync(ini, 'utf8')
    writeFileSync(template, `${shipped}<% if ( %>`)
    store.put('/postgres/master', '10.77.0.2')
    await soon('it has tried twice', () => log('proxy.point').length >= 2)
    assert.is(log('proxy.point').filter(({ level }) => level === 'error').length, 1)
    assert.match(log('proxy.point')[0]?.error ?? '', new RegExp(`^${template}: `))
    assert.is(log('proxy.point')[0]?.kept, 'the file as it was')
    assert.is(readFileSync(ini, 'utf8'), old)
    writeFileSync(template, shipped)
    await soon('it follows again', () => readFileSync(ini, 'utf8').includes('host=10.77.0.2'))
    assert.is(await stop(), 0)
    console.close()
  })
})

test.run()
