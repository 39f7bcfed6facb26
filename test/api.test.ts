import grpc from '@grpc/grpc-js'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Api, ApiError, connect } from '../lib/api.ts'
import { Fault, type Handler, serve } from '../lib/apiserver.ts'
import { Failed, Refused } from '../lib/errors.ts'
import { log } from '../lib/log.ts'
import { definition, type Rpc, timestamp } from '../lib/proto.ts'
import type { Tls } from '../lib/tls.ts'
import { sleep, until } from '../lib/wait.ts'
import { certificates } from './certificates.ts'

log.setLevel('error')
const deadlineMs = 3000
const created_at = timestamp(new Date('2026-01-02T03:04:05.678Z'))

interface World {
  server?: Tls | null
  client?: Tls | null
  allowed?: string[]
}

async function withApi(
  handlers: Partial<Record<Rpc, Handler>>,
  body: (api: Api) => Promise<void>,
  world: World = {},
) {
  const { server: tls = null, client = null, allowed = [] } = world
  const server = await serve({ bind: '127.0.0.1:0', tls, allowed, handlers })
  const api = connect(`${tls ? 'localhost' : '127.0.0.1'}:${server.port}`, client)
  try {
    await body(api)
  } finally {
    api.close()
    await server.close(100)
  }
}

async function refusal(call: Promise<unknown>): Promise<ApiError> {
  try {
    await call
  } catch (error) {
    assert.instance(error, ApiError)
    return error as ApiError
  }
  assert.unreachable('it should have failed')
  throw new Error()
}

const move = { target: 'pg02', lifetimeMs: 1000, expiryMs: 1000 }

test('no code is made for a message when the first one comes: clients may be held then', async () => {
  const made: string[] = []
  const { Function: real } = globalThis
  const stamps = { created_at, expires_at: created_at }
  const replies: Partial<Record<Rpc, object>> = {
    ...{ health_check: { components: [{ name: 'a', ok: true, detail: '' }] }, pause: stamps, resume: stamps },
    ...{ prepare: { elapsed_ms: 1 }, proceed: {}, writable: { elapsed_ms: 1 }, migrate: stamps },
    ...{ transactions: { transactions: [{ pid: 1, since: '1' }] }, terminate: { outcomes: [{ pid: 1 }] } },
  }
  const note = (words: unknown[]) => made.push(String(words.at(-1)).slice(0, 200))
  globalThis.Function = new Proxy(real, {
    apply: (target, self, words) => note(words) && Reflect.apply(target, self, words),
    construct: (target, words) => note(words) && Reflect.construct(target, words),
  })
  try {
    for (const [rpc, reply] of Object.entries(replies)) {
      const method = definition.service[rpc]
      if (!method) throw new Error(`there is no ${rpc}`)
      method.requestDeserialize(method.requestSerialize({ transactions: [{ pid: 1, since: '1' }] }))
      method.responseDeserialize(method.responseSerialize(reply))
    }
  } finally {
    globalThis.Function = real
  }
  assert.equal(made, [])
})

test('requests and replies arrive as they are', async () => {
  const seen: unknown[] = []
  const pause: Handler = async (request) => {
    seen.push(request)
    return { created_at, expires_at: timestamp(new Date('2026-01-02T03:04:30.678Z')) }
  }
  await withApi({ pause }, async (api) => {
    const reply = await api.pause({ deadlineMs, timeoutMs: 1500, expiryMs: 25_000 })
    assert.is(reply.createdAt.toISOString(), '2026-01-02T03:04:05.678Z')
    assert.is(reply.expiresAt.getTime() - reply.createdAt.getTime(), 25_000)
  })
  assert.equal(
    { ...(seen[0] as object) },
    { timeout: 0, expiry: 0, timeout_ms: 1500, expiry_ms: 25_000, owner: '' },
  )
})

test("the original's paths and field numbers", () => {
  const { health_check, pause, migrate } = definition.service
  assert.is(health_check?.path, '/failover.Failover/health_check')
  // 5 s and 25 s in fields 1 and 2, as the Go client sends them
  assert.is(pause?.requestSerialize({ timeout: 5, expiry: 25 }).toString('hex'), '08051019')
  assert.is(migrate?.requestSerialize({}).length, 0)
  const reply = migrate?.responseSerialize({ migrating_to: 'pg02', address: '10.0.0.2' })
  assert.is(reply?.toString('latin1'), '\n\x04pg02\x12\x0810.0.0.2')
})

test('an error keeps its code and its text, and a bug its secrets', async () => {
  const handlers = {
    prepare: async () => Promise.reject(new Fault(grpc.status.NOT_FOUND, 'no standby')),
    unmigrate: async () => Promise.reject(new Failed('crm_resource: exit 1')),
    checkpoint: async () => Promise.reject(new Error('password=secret')),
    resume: (() => {
      throw undefined
    }) as never,
  }
  const silent = process.stderr.write
  await withApi(handlers, async (api) => {
    process.stderr.write = () => true
    try {
      const errors = [
        api.prepare({ ...move, deadlineMs }),
        api.unmigrate({ deadlineMs }),
        api.checkpoint({ deadlineMs }),
      ]
      const texts = (await Promise.all(errors.map(refusal))).map((e) => `${e.code} ${e.message}`)
      assert.equal(texts, [
        '5 127.0.0.1: prepare: no standby',
        '2 127.0.0.1: unmigrate: crm_resource: exit 1',
        '13 127.0.0.1: checkpoint: internal error; the log of this node has it',
      ])
      assert.is((await refusal(api.resume({ deadlineMs }))).code, grpc.status.INTERNAL)
      assert.is((await refusal(api.healthCheck({ deadlineMs }))).code, grpc.status.UNIMPLEMENTED)
    } finally {
      process.stderr.write = silent
    }
  })
})

test('an error that quotes half a character does not end the daemon', async () => {
  const half = String.fromCharCode(0xd800)
  const prepare = async () => Promise.reject(new Fault(grpc.status.NOT_FOUND, `no node ${half}`))
  const unmigrate = async () => Promise.reject(new Failed('🐘'.repeat(2000)))
  const silent = process.stderr.write
  process.stderr.write = () => true
  await withApi({ prepare, unmigrate }, async (api) => {
    assert.match((await refusal(api.prepare({ ...move, deadlineMs }))).message, 'prepare: no node \ufffd')
    assert.match((await refusal(api.unmigrate({ deadlineMs }))).message, /unmigrate: (🐘)+/u)
  }).finally(() => {
    process.stderr.write = silent
  })
})

test('the blockers of a pause come with its error', async () => {
  const blocker = {
    database: 'app',
    user: 'app',
    client: '10.0.0.9:4711',
    ageMs: 12_000,
    state: 'idle in transaction',
  }
  const pause = async () => Promise.reject(new Fault(grpc.status.DEADLINE_EXCEEDED, 'blocked', [blocker]))
  await withApi({ pause }, async (api) => {
    const error = await refusal(api.pause({ deadlineMs, timeoutMs: 1, expiryMs: 1 }))
    assert.equal([error.code, error.reached, error.blockers], [4, true, [blocker]])
  })
})

test('a handler hears that its caller has gone', async () => {
  let heard = false
  const pause: Handler = async (_, signal) => {
    await sleep(5000, signal)
    heard = signal.aborted
    return {}
  }
  await withApi({ pause }, async (api) => {
    const error = await refusal(api.pause({ deadlineMs: 50, timeoutMs: 1, expiryMs: 1 }))
    assert.match(error.message, /pause: no answer within 50 ms/)
    assert.not(error.reached)
    await until('the handler hears it', { timeoutMs: 2000, everyMs: 5 }, () => heard)
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 20)
    assert.is(
      (await refusal(api.pause({ deadlineMs, signal: stop.signal, timeoutMs: 1, expiryMs: 1 }))).code,
      1,
    )
  })
})

test('a call that is answered is not taken for one that was given up', async () => {
  let aborted = false
  const resume: Handler = async (_, signal) => {
    signal.addEventListener('abort', () => {
      aborted = true
    })
    return { created_at }
  }
  await withApi({ resume }, async (api) => {
    await api.resume({ deadlineMs })
    await sleep(20)
  })
  assert.not(aborted)
})

test('nobody there is an error at once, with the address', async () => {
  const api = connect('127.0.0.1:1', null)
  const error = await refusal(api.resume({ deadlineMs }))
  assert.match(error.message, /127\.0\.0\.1: resume: .*ECONNREFUSED/)
  assert.not(error.reached)
  api.close()
})

test('many calls under one signal are no leak to warn about', async () => {
  const warnings: string[] = []
  const warn = ({ message }: Error) => warnings.push(message)
  process.on('warning', warn)
  const { signal } = new AbortController()
  await withApi({ resume: async () => ({ created_at }) }, async (api) => {
    await Promise.all(Array.from({ length: 20 }, () => api.resume({ deadlineMs, signal })))
  })
  await sleep(0)
  process.off('warning', warn)
  assert.equal(warnings, [])
})

test('too large a request is refused', async () => {
  let called = 0
  const prepare = async () => ({ n: called++ })
  await withApi({ prepare }, async (api) => {
    assert.is(
      (await refusal(api.prepare({ ...move, deadlineMs, target: 'x'.repeat(70_000) }))).code,
      grpc.status.RESOURCE_EXHAUSTED,
    )
  })
  assert.is(called, 0)
})

/** The servers that grpc-js keeps. */
const servers = () =>
  new Promise((resolve, reject) => {
    const request = { start_server_id: 0, max_results: 0 }
    const done: grpc.sendUnaryData<{ server: unknown[] }> = (error, found) =>
      error ? reject(error) : resolve(found?.server.length)
    grpc.getChannelzHandlers().GetServers({ request } as never, done as never)
  })

test('an address that is none, or is taken, is refused', async () => {
  const refused = async (bind: string) => {
    await serve({ bind, tls: null, allowed: [], handlers: {} }).then(
      () => assert.unreachable('it should not listen'),
      (error) => assert.instance(error, Refused),
    )
  }
  await refused('8080')
  await refused('127.0.0.1:99999')
  const first = await serve({ bind: '127.0.0.1:0', tls: null, allowed: [], handlers: {} })
  const before = await servers()
  await refused(`127.0.0.1:${first.port}`)
  assert.is(await servers(), before, 'nothing is left of the try')
  await first.close()
})

test('with TLS only the names on the list may call', async () => {
  const { node, operator, stranger } = await certificates('node', 'operator', 'stranger')
  const { outsider } = await certificates('outsider')
  let called = 0
  const resume = async () => {
    called++
    return { created_at }
  }
  const ask = (client: Tls | null | undefined, check: (call: Promise<unknown>) => Promise<void>) =>
    withApi({ resume }, (api) => check(api.resume({ deadlineMs })), {
      server: node ?? null,
      client: client ?? null,
      allowed: ['operator'],
    })
  await ask(operator, async (call) => void (await call))
  assert.is(called, 1)
  await ask(stranger, async (call) =>
    assert.match((await refusal(call)).message, /stranger may not call this API/),
  )
  await ask(null, async (call) => assert.not((await refusal(call)).reached)) // plaintext
  await ask(outsider, async (call) => assert.not((await refusal(call)).reached)) // another CA
  assert.is(called, 1)
})

test.run()
