// no playground
/**
 * `npm run bench daemons`: the two daemons as they are, through a day's worth of events in minutes, and what memory they hold.
 * etcd, PgBouncer's console and Pacemaker are played by this process; `--scale 0.1` plays a tenth.
 */
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, connect as dial, type Socket } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { now, since, sleep, until } from '../lib/wait.ts'
import { member, Store } from '../test/etcdserver.ts'
import { fakeConsole } from '../test/fakeconsole.ts'
import { address, supervise } from '../test/supervised.ts'

const { values } = parseArgs({
  options: {
    scale: { type: 'string', default: '1' },
    idle: { type: 'string', default: '60' },
    json: { type: 'boolean', default: false },
  },
})
const scale = Number(values.scale)
const GOAL_MB = 100
const IDLE_MS = Number(values.idle) * 1000
const EVENTS = 100_000 * scale
const RELOADS = 10_000 * scale
const RECONNECTS = 1_000 * scale
const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 30_000, everyMs: 1 }, probe)
const tell = (text: string) => console.error(text)
process.env.NODE_OPTIONS = '--max-semi-space-size=1 --v8-pool-size=1' // as in the units

/** Three members behind ports whose connections can be cut. */
async function etcd() {
  const store = new Store()
  const members = await Promise.all([member(store), member(store), member(store)])
  const sockets = new Set<Socket>()
  const front = async (port: number) => {
    const server = createServer((near) => {
      const far = dial(port, '127.0.0.1')
      for (const [a, b] of [
        [near, far],
        [far, near],
      ] as const) {
        sockets.add(a)
        a.pipe(b)
        a.on('error', () => {})
        a.on('close', () => {
          sockets.delete(a)
          b.destroy()
        })
      }
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    return {
      url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
      close: () => server.close(),
    }
  }
  const fronts = await Promise.all(members.map(({ url }) => front(Number(url.split(':').at(-1)))))
  return {
    store,
    endpoints: fronts.map(({ url }) => url).join(','),
    cut: () => {
      for (const socket of sockets) socket.destroy()
    },
    close() {
      for (const each of [...fronts, ...members]) each.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

const rss = (pid: number) =>
  Math.round(Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)?.[1]) / 1024)

const tick = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))

/** CPU time in ms so far: its own, and that of its children that have ended. */
function cpu(pid: number) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ')
    .map(Number)
  const of = (first: number) => (((fields[first] ?? 0) + (fields[first + 1] ?? 0)) * 1000) / tick
  return { own: of(11), children: of(13) }
}

/** What it costs at rest, in percent of a core. */
async function idle(name: string, pid: number) {
  await sleep(5_000)
  const before = cpu(pid)
  const start = now()
  await sleep(IDLE_MS)
  const after = cpu(pid)
  const percent = (kind: 'own' | 'children') =>
    Math.round(((after[kind] - before[kind]) / since(start)) * 10_000) / 100
  const found = { own_percent: percent('own'), children_percent: percent('children') }
  tell(`${name}: ${found.own_percent} % of a core at rest, its children ${found.children_percent} %`)
  return found
}

/** Plays `times` steps, and gives the memory at every tenth of them; the first tenth warms up. */
async function play(name: string, pid: number, times: number, step: (i: number) => Promise<unknown>) {
  const start = now()
  const samples: number[] = []
  for (let i = 1; i <= times; i++) {
    await step(i)
    if (i % Math.ceil(times / 10) === 0 || i === times) samples.push(rss(pid))
  }
  const growth = (samples.at(-1) ?? 0) - (samples[0] ?? 0)
  tell(
    `${name}: ${samples.join(' ')} MB, ${growth >= 0 ? '+' : ''}${growth} MB, ${Math.round(since(start) / 1000)} s`,
  )
  return { mb: samples, growth_mb: growth }
}

/** `n` watch events of a key that nobody changed, as after a reconnect to a busy cluster. */
async function events(store: Store, n: number): Promise<void> {
  for (let i = 0; i < n; i++) for (const watcher of store.watchers) watcher.tell()
  await sleep(2)
}

async function reconnect(world: Awaited<ReturnType<typeof etcd>>): Promise<void> {
  const { watchers } = world.store
  await soon('it watches', () => watchers.size > 0)
  world.cut()
  await soon('it knows', () => watchers.size === 0)
}

async function proxy(dir: string) {
  const world = await etcd()
  const { store } = world
  const ini = join(dir, 'pgbouncer.ini')
  const console = await fakeConsole(join(dir, '.s.PGSQL.6432'), ini)
  const settings = {
    PGCM_CONFIG_FILE: '/dev/null',
    PGCM_ETCD_ENDPOINTS: world.endpoints,
    PGCM_PROXY_METRICS_ADDRESS: '127.0.0.1:0',
    PGCM_PGBOUNCER_SOCKET_DIR: dir,
    PGCM_PGBOUNCER_CONFIG_FILE: ini,
    PGCM_PGBOUNCER_CONFIG_TEMPLATE_FILE: fileURLToPath(
      new URL('../templates/pgbouncer.ini.ejs', import.meta.url),
    ),
  }
  store.put('/postgres/master', address(1))
  const program = fileURLToPath(new URL('../bin/pgcm-proxy', import.meta.url))
  const child = spawn(process.execPath, [program], { env: { ...process.env, ...settings }, stdio: 'ignore' })
  const pid = child.pid as number
  try {
    await soon('it reloads', () => console.state.reloads > 0)
    await soon('it watches', () => store.watchers.size > 0)
    const before = rss(pid)
    tell(`pgcm-proxy: ${before} MB at the start`)
    const rest = await idle('pgcm-proxy', pid)
    const reloads = await play(`${RELOADS} reloads`, pid, RELOADS, async (i) => {
      const done = console.state.reloads
      store.put('/postgres/master', address(1 + (i % 2)))
      await soon('it reloads', () => console.state.reloads > done)
    })
    const watched = await play(`${EVENTS} watch events`, pid, EVENTS / 100, () => events(store, 100))
    const reconnects = await play(`${RECONNECTS} reconnects`, pid, RECONNECTS, () => reconnect(world))
    return {
      before_mb: before,
      rest,
      reloads,
      watched,
      reconnects,
      after_mb: rss(pid),
      admin_connections: console.state.connections,
    }
  } finally {
    child.kill('SIGKILL')
    console.close()
    world.close()
  }
}

async function supervised(dir: string) {
  const world = await etcd()
  const { store } = world
  const daemon = supervise(dir, 3, world.endpoints, [3, 3], { PGCM_LOG_LEVEL: 'info' })
  const there = () => store.keys.get('/postgres/master')?.value.toString() === address(3)
  try {
    await soon('it publishes', there)
    await soon('it watches', () => store.watchers.size > 1)
    const before = rss(daemon.pid)
    tell(`pgcm-supervise: ${before} MB at the start`)
    const rest = await idle('pgcm-supervise', daemon.pid)
    const repairs = await play(`${RELOADS} repairs`, daemon.pid, RELOADS, async (i) => {
      if (i % 2) store.delete('/postgres/master')
      else store.put('/postgres/master', '6.6.6.6')
      await soon('it is right again', there)
    })
    const looks = await play(`${RECONNECTS} looks at Pacemaker`, daemon.pid, RECONNECTS, async (i) => {
      const view = store.keys.get('/postgres/cluster')?.mod_revision
      daemon.sees(i % 20 ? 3 : 1 + ((i / 20) % 2), 4 + i) // of another's promotion it tells a second or two later
      writeFileSync(join(dir, 'node3', 'poke'), 'x')
      await soon('it is published', () => store.keys.get('/postgres/cluster')?.mod_revision !== view)
    })
    const watched = await play(`${EVENTS} watch events`, daemon.pid, EVENTS / 100, () => events(store, 100))
    const reconnects = await play(`${RECONNECTS} reconnects`, daemon.pid, RECONNECTS, () => reconnect(world))
    return { before_mb: before, rest, repairs, looks, watched, reconnects, after_mb: rss(daemon.pid) }
  } catch (error) {
    for (const line of daemon.log().slice(-30)) tell(JSON.stringify(line))
    throw error
  } finally {
    await daemon.stop()
    world.close()
  }
}

const dir = mkdtempSync('/dev/shm/pgcm-bench-')
try {
  const result = { scale, proxy: await proxy(dir), supervise: await supervised(dir) }
  console.log(values.json ? JSON.stringify(result) : result)
  const most = Math.max(result.proxy.after_mb, result.supervise.after_mb)
  tell(`${most <= GOAL_MB ? 'within' : 'ABOVE'} the goal of ${GOAL_MB} MB`)
  process.exitCode = most <= GOAL_MB ? 0 : 1
} finally {
  rmSync(dir, { recursive: true })
}
process.exit()
