/** What reaches the API's port and is no good call: refused, told to the log at a bounded rate, and nothing else happens. */
import http2 from 'node:http2'
import net from 'node:net'
import tls from 'node:tls'
import grpc from '@grpc/grpc-js'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Api, ApiError, connect } from '../lib/api.ts'
import { type ApiOptions, type Handler, serve } from '../lib/apiserver.ts'
import { log } from '../lib/log.ts'
import { timestamp } from '../lib/proto.ts'
import type { Tls } from '../lib/tls.ts'
import { until } from '../lib/wait.ts'
import { certificates } from './certificates.ts'

const deadlineMs = 5000
const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 5000, everyMs: 5 }, probe)
const { node, operator, stranger } = await certificates('node', 'operator', 'stranger')
const { outsider } = await certificates('outsider')
if (!node || !operator || !stranger || !outsider) throw new Error('no certificates')

interface World {
  port: number
  api: Api
  /** Events of the log since the server began. */
  events: { level: string; event: string; error: string }[]
}

/** A server with TLS; `attack` it, and then a good client must still be answered, by a handler that nobody else reached. */
async function underAttack(
  attack: (world: World) => Promise<void>,
  limits: ApiOptions['limits'] = {},
  plain = false,
): Promise<void> {
  let called = 0
  const resume: Handler = async () => {
    called += 1
    return { created_at: timestamp(new Date()) }
  }
  const events: World['events'] = []
  const write = process.stderr.write
  process.stderr.write = (text) => {
    events.push(JSON.parse(String(text)))
    return true
  }
  log.setLevel('debug')
  const server = await serve({
    ...{ bind: '127.0.0.1:0', tls: plain ? null : (node as Tls), allowed: ['operator'] },
    handlers: { resume, pause: () => new Promise(() => {}) },
    limits,
  } as ApiOptions)
  const api = connect(`localhost:${server.port}`, plain ? null : (operator as Tls))
  try {
    await attack({ port: server.port, api, events })
    assert.is(called, 0, 'the attack reached a handler')
    await api.resume({ deadlineMs })
    assert.is(called, 1)
  } finally {
    api.close()
    await server.close(100)
    log.setLevel('error')
    process.stderr.write = write
  }
}

/** Sends bytes over TCP, and resolves once the server has closed the connection. */
const send = (port: number, bytes: Buffer | string): Promise<void> =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(bytes))
    socket.on('error', () => {})
    socket.on('close', () => resolve())
    socket.resume()
  })

/** The same over TLS. */
const handshake = (port: number, client: Partial<Tls>, bytes: Buffer | string = ''): Promise<void> =>
  new Promise((resolve) => {
    const socket = tls.connect({ host: 'localhost', port, ALPNProtocols: ['h2'], ...client })
    socket.on('error', () => {})
    socket.on('close', () => resolve())
    socket.write(bytes)
    socket.resume()
  })

const said = (events: World['events'], event: string) => events.filter((each) => each.event === event)

test('bytes that are no TLS, and TLS that is no HTTP/2', async () => {
  await underAttack(async ({ port, events }) => {
    const rubbish = ['GET / HTTP/1.1\r\n\r\n', Buffer.alloc(3000, 0xff), '\x16\x03\x01\xff\xffhello']
    for (const bytes of rubbish) await send(port, bytes)
    await soon('told', () => said(events, 'api.stranger').length === 3)
    await handshake(port, operator, Buffer.alloc(5000, 7))
    await soon('told', () => said(events, 'api.stranger').length === 4)
  })
})

test('no certificate, and one of another CA', async () => {
  await underAttack(async ({ port, events }) => {
    for (const client of [{ ca: node.ca }, { ...outsider, ca: node.ca }]) {
      await handshake(port, client)
    }
    await soon('told', () => said(events, 'api.stranger').length === 2)
    for (const { error } of said(events, 'api.stranger')) assert.match(error, /certificate/)
  })
})

test('a certificate that is not on the list may not even ask for the health', async () => {
  await underAttack(async ({ port, events }) => {
    const api = connect(`localhost:${port}`, stranger)
    for (const call of [() => api.resume({ deadlineMs }), () => api.healthCheck({ deadlineMs })].flatMap(
      (c) => [c, c],
    )) {
      const error = await call().catch((e) => e)
      assert.instance(error, ApiError)
      assert.match(error.message, /stranger may not call this API/)
    }
    api.close()
    const denied = said(events, 'api.denied')
    assert.is(denied.filter(({ level }) => level === 'error').length, 1, 'said once')
    assert.is(denied.length, 4)
  })
})

test('a connection that makes no call is cut off', async () => {
  await underAttack(
    async ({ port, events }) => {
      await Promise.all([send(port, ''), handshake(port, operator)])
      assert.is(
        said(events, 'api.stranger').filter(({ error }) => error === 'no call within 100 ms').length,
        2,
      )
    },
    { quietMs: 100 },
  )
})

test('many silent connections do not keep a good client out', async () => {
  await underAttack(
    async ({ port }) => {
      let closed = 0
      for (let i = 0; i < 20; i++) send(port, '').then(() => closed++)
      await soon('the oldest make way', () => closed === 15)
    },
    { quiet: 5 },
  )
})

const path = '/failover.Failover/resume'
const headers = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' }

/** One request by hand; gives gRPC's status, whatever part of the request was sent. */
async function request(port: number, bytes: Buffer, more = {}): Promise<number> {
  const session = http2.connect(`http://localhost:${port}`)
  try {
    const stream = session.request({ ...headers, ...more }, { endStream: false })
    stream.on('error', () => {})
    stream.write(bytes)
    return await new Promise((resolve, reject) => {
      session.on('error', reject)
      stream.on('response', (found) => found['grpc-status'] && resolve(Number(found['grpc-status'])))
      stream.on('trailers', (found) => resolve(Number(found['grpc-status'])))
    })
  } finally {
    session.destroy()
  }
}

test('a request that is too long, garbled, or never complete', async () => {
  await underAttack(
    async ({ port, events }) => {
      const { RESOURCE_EXHAUSTED, INTERNAL, UNIMPLEMENTED, DEADLINE_EXCEEDED } = grpc.status
      const frame = (length: number, body: number[], flag = 0) =>
        Buffer.from([flag, 0, length >> 16, (length >> 8) & 255, length & 255, ...body])
      assert.is(await request(port, frame(70_000, [1, 2, 3])), RESOURCE_EXHAUSTED)
      assert.is(await request(port, frame(3, [0xff, 0xff, 0xff])), INTERNAL)
      assert.is(await request(port, frame(3, [1, 2, 3], 1), { 'grpc-encoding': 'gzip' }), INTERNAL)
      assert.is(await request(port, frame(3, [1, 2, 3], 1), { 'grpc-encoding': 'x' }), UNIMPLEMENTED)
      assert.is(await request(port, frame(0, []), { 'grpc-timeout': 'x' }), INTERNAL)
      await soon('told', () => said(events, 'api.garbled').length === 5)
      assert.is(await request(port, frame(3, [1])), DEADLINE_EXCEEDED)
      assert.is(await request(port, Buffer.from([0])), DEADLINE_EXCEEDED)
      assert.is(said(events, 'api.slow').length, 2)
    },
    { requestMs: 100 },
    true,
  )
})

test('more calls at once than are allowed are refused, and only those', async () => {
  await underAttack(
    async ({ port, events }) => {
      const clients = Array.from({ length: 4 }, () => connect(`localhost:${port}`, operator))
      const stop = new AbortController()
      const pause = (api: Api) =>
        api.pause({ deadlineMs, signal: stop.signal, timeoutMs: 1, expiryMs: 1 }).catch((error) => error.code)
      let answered = 0
      const codes = clients
        .flatMap((api) => [pause(api), pause(api)])
        .map((code) => code.finally(() => answered++))
      await soon('two are refused', () => answered === 2)
      stop.abort()
      const { RESOURCE_EXHAUSTED, CANCELLED } = grpc.status
      const counted = (await Promise.all(codes)).sort()
      assert.equal(counted, [...Array(6).fill(CANCELLED), RESOURCE_EXHAUSTED, RESOURCE_EXHAUSTED])
      assert.is(said(events, 'api.busy').length, 2)
      for (const api of clients) api.close()
    },
    { calls: 6 },
  )
})

test.run()
