/** The fake cluster behind real sockets: an API on each machine's own address, and etcd; for commands that run as processes. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Api } from '../lib/api.ts'
import { type Handler, serve } from '../lib/apiserver.ts'
import { load } from '../lib/config.ts'
import { Expected } from '../lib/errors.ts'
import { failover } from '../lib/failover.ts'
import { keeper } from '../lib/pausekeeper.ts'
import type { Rpc } from '../lib/proto.ts'
import { connectWorld } from '../lib/world.ts'
import { member, Store } from './etcdserver.ts'
import { fakeCluster, type Meddle } from './fake-cluster.ts'

/** Their endpoints are these addresses: no node is called as its endpoint is. */
const ADDRESSES = { pg01: '127.0.0.11', pg02: '127.0.0.12', pg03: '127.0.0.13', app01: '127.0.0.21' }

export interface Ended {
  code: number | null
  text: string
}

export async function fakeMachines(meddle: Meddle = () => {}) {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-machines-'))
  const cluster = fakeCluster(meddle, ADDRESSES)
  const store = new Store()
  const etcd = await member(store)
  const publish = () => {
    const { epoch, primary, published } = cluster.state
    const nodes = Object.entries(ADDRESSES)
      .slice(0, 3)
      .map(([name, address]) => ({ name, address }))
    store.put('/postgres/cluster', JSON.stringify({ epoch, primary, last: primary, nodes }))
    store.put('/postgres/master', published ?? '')
  }
  publish()
  cluster.onChange(publish)

  const machines = await Promise.all(
    Object.entries(ADDRESSES).map(async ([name, host]) => {
      const api = cluster.apis.get(name) as Api
      const deadlineMs = 10_000
      let wanted = {}
      const pauses = keeper(
        {
          pause: ({ signal, timeoutMs }) =>
            api.pause({ signal, timeoutMs, expiryMs: 0, deadlineMs }) as never,
          resume: async () => (await api.resume({ ...wanted, deadlineMs })).stallMs,
        },
        join(dir, `${name}.json`),
      )
      const handlers: Partial<Record<Rpc, Handler>> = {
        status: async () => {
          const pause = pauses.current()
          return { json: JSON.stringify({ ...(await api.status({ deadlineMs })), pause }) }
        },
        pause: async (request, signal) => {
          const [timeoutMs, expiryMs] = [Number(request.timeout_ms), Number(request.expiry_ms)]
          await pauses.pause({ timeoutMs, expiryMs, owner: String(request.owner), signal })
          return {}
        },
        resume: async ({ owner, address, timeout_ms: timeoutMs }) => {
          wanted = { address: String(address), timeoutMs: Number(timeoutMs) }
          return { stall_ms: await pauses.resume(String(owner)) }
        },
        writable: async ({ timeout_ms: timeoutMs }, signal) =>
          api.writable({ timeoutMs: Number(timeoutMs), deadlineMs, signal }) as never,
        // Like a program that was started, it goes on when its caller has gone.
        prepare: async ({ target }) =>
          api.prepare({ target: String(target), lifetimeMs: 0, expiryMs: 0, deadlineMs }),
        proceed: async () => (await api.proceed({ deadlineMs })) ?? {},
        unmigrate: async () => (await api.unmigrate({ deadlineMs })) ?? {},
        checkpoint: async () => api.checkpoint({ deadlineMs }),
      }
      const server = await serve({ bind: `${host}:0`, tls: null, allowed: [], handlers })
      return { address: `${host}:${server.port}`, pauses, server }
    }),
  )
  const app = machines[3]?.address ?? ''
  store.put('/postgres/proxies/app01', JSON.stringify({ name: 'app01', address: app }))

  const flags = [
    ...['--yes', '--insecure', `--etcd-endpoints=${etcd.url}`],
    `--failover-api-endpoints=${machines.slice(0, 3).map(({ address }) => address)}`,
    // Longer than the test: what is let go was let go by somebody. And no machine is silent because this one is busy.
    ...['--pause-expiry=80s', '--health-check-timeout=20s'],
  ]

  /** pgcm-failover, as a process of its own. */
  function command() {
    const env = { PATH: process.env.PATH, PGCM_CONFIG_FILE: '/dev/null', NO_COLOR: '1' }
    const options = { env, stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'] }
    const child = spawn(process.execPath, ['bin/pgcm-failover', ...flags], options)
    let text = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (more) => {
        text += more
      })
    const ended = new Promise<Ended>((resolve) => child.on('close', (code) => resolve({ code, text })))
    return {
      ended,
      /** SIGKILL; comes back once it has gone. */
      kill: async () => {
        child.kill('SIGKILL')
        await ended
      },
    }
  }

  /** The same in this process, which starts sooner. */
  async function again(): Promise<Ended> {
    const { config } = load('failover', flags, { PGCM_CONFIG_FILE: '/dev/null' })
    const world = connectWorld(config)
    let text = ''
    const out = { write: (more: string) => (text += more) }
    try {
      await failover({ config, world, out, stdin: {}, env: {} })
      return { code: 0, text }
    } catch (error) {
      if (!(error instanceof Expected)) throw error
      return { code: error.exitCode, text: `${text}${error.message}` }
    } finally {
      world.close()
    }
  }

  return {
    ...cluster,
    store,
    command,
    again,
    held: () => machines.filter(({ pauses }) => pauses.current()).map(({ address }) => address),
    async close() {
      for (const { pauses, server } of machines) {
        pauses.close()
        await server.close(50)
      }
      etcd.close()
      rmSync(dir, { recursive: true })
    },
  }
}
