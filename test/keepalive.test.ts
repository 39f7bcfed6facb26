/** A connection whose other end is gone without a word: a machine that lost its power, a firewall that forgot. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type ApiError, connect as connectApi } from '../lib/api.ts'
import { type Handler, serve } from '../lib/apiserver.ts'
import { load } from '../lib/config.ts'
import { connect as connectEtcd } from '../lib/etcd.ts'
import { followKeys } from '../lib/etcdfollow.ts'
import { log } from '../lib/log.ts'
import { sleep, until } from '../lib/wait.ts'
import { member, Store } from './etcdserver.ts'
import { throughSilence } from './silentproxy.ts'

log.setLevel('error')
const HOUR = 3_600_000
const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 20_000, everyMs: 5 }, probe)
const quick = { timeMs: 200, timeoutMs: 200 }
const never = { timeMs: HOUR, timeoutMs: HOUR }

/** A call that is under way when the connection falls silent. */
async function silenced(
  keepAlive: { server: typeof quick; client: typeof quick },
  body: (world: { call: Promise<unknown>; abandoned: () => boolean }) => Promise<void>,
): Promise<void> {
  let [began, abandoned] = [false, false]
  const checkpoint: Handler = async (_, signal) => {
    began = true
    await sleep(HOUR, signal)
    abandoned = true
    return {}
  }
  const handlers = { checkpoint }
  const server = await serve({
    bind: '127.0.0.1:0',
    tls: null,
    allowed: [],
    handlers,
    keepAlive: keepAlive.server,
  })
  const way = await throughSilence(server.port)
  const api = connectApi(`127.0.0.1:${way.port}`, null, keepAlive.client)
  const call = api.checkpoint({ deadlineMs: HOUR }).catch((error) => error)
  try {
    await soon('it has begun', () => began)
    way.mute()
    await body({ call, abandoned: () => abandoned })
  } finally {
    api.close()
    way.close()
    await server.close(10)
  }
}

test('whoever waits for an answer of the API hears that none will come', async () => {
  await silenced({ server: never, client: quick }, async ({ call }) => {
    let error: ApiError | undefined
    call.then((found) => {
      error = found as ApiError
    })
    await soon('the call fails', () => error)
    assert.not(error?.reached)
  })
})

test('the API hears that nobody waits for its answer, and undoes what it was asked for', async () => {
  await silenced({ server: quick, client: never }, async ({ abandoned }) => {
    await soon('it is abandoned', abandoned)
  })
})

test('a watch of etcd over a connection that is dead is found out before the next look, and made anew', async () => {
  const store = new Store()
  const [lost, other] = [await member(store), await member(store)]
  const way = await throughSilence(Number(lost.url.split(':').at(-1)))
  const flags = [
    `--etcd-endpoints=http://127.0.0.1:${way.port},${other.url}`,
    '--etcd-keep-alive-time=5s', // the least that is allowed
    '--etcd-keep-alive-timeout=50ms',
  ]
  const etcd = connectEtcd(load('supervise', flags, { PGCM_CONFIG_FILE: '/dev/null' }).config)
  const stop = new AbortController()
  const settings = { pollMs: HOUR, retryMs: HOUR, signal: stop.signal }
  const seen: (string | undefined)[] = []
  const following = followKeys(etcd, ['/a'], settings, (values) => void seen.push(values['/a']?.value))
  try {
    await soon('it watches', () => etcd.seen.watching && store.watchers.size === 1)
    const [before] = store.watchers
    way.mute()
    const again = () => [...store.watchers].some((watcher) => watcher !== before)
    await until('it watches elsewhere', { timeoutMs: 30_000, everyMs: 20 }, again)
    store.put('/postgres/a', '1')
    await soon('it sees a change', () => seen.at(-1) === '1')
  } finally {
    stop.abort()
    etcd.close()
    way.close()
    for (const each of [lost, other]) each.close()
    await following
  }
})

test.run()
