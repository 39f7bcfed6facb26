import grpc from '@grpc/grpc-js'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { serve } from '../lib/apiserver.ts'
import { healthService } from '../lib/healthservice.ts'
import { log } from '../lib/log.ts'
import { healthDefinition } from '../lib/proto.ts'
import { until, within } from '../lib/wait.ts'
import { certificates } from './certificates.ts'

log.setLevel('error')
const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 20_000, everyMs: 5 }, probe)
// biome-ignore lint/suspicious/noExplicitAny: gRPC's client, untyped
type Client = any

function check(client: Client, service = ''): Promise<string | number> {
  return new Promise((resolve) => {
    client.Check(
      { service },
      { deadline: Date.now() + 20_000 },
      (error: grpc.ServiceError, reply: { status: string }) => resolve(error ? error.code : reply.status),
    )
  })
}

function watch(client: Client, service = '') {
  const seen: (string | number)[] = []
  const stream = client.Watch({ service })
  stream.on('data', ({ status }: { status: string }) => seen.push(status))
  stream.on('error', (error: grpc.ServiceError) => seen.push(error.code))
  stream.on('end', () => seen.push('end'))
  return { seen, cancel: () => stream.cancel() }
}

async function withServer(
  status: () => string,
  body: (client: Client, close: () => Promise<void>) => Promise<void>,
) {
  const handlers = { health_check: async () => ({ status: status(), components: [] }) }
  const server = await serve({ bind: '127.0.0.1:0', tls: null, allowed: [], handlers })
  const client = new healthDefinition(`127.0.0.1:${server.port}`, grpc.credentials.createInsecure())
  try {
    await body(client, () => server.close(3000))
  } finally {
    client.close()
    await server.close(10)
  }
}

test("gRPC's own paths and numbers", () => {
  const { Check } = healthDefinition.service
  assert.is(Check?.path, '/grpc.health.v1.Health/Check')
  assert.is(Check?.requestSerialize({ service: 'a' }).toString('latin1'), '\n\x01a')
  const numbers = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'].map((status) =>
    Check?.responseSerialize({ status }).toString('hex'),
  )
  assert.equal(numbers, ['0800', '0801', '0802', '0803'])
})

test('a probe hears whether this node serves', async () => {
  for (const [status, answer] of [
    ['HEALTHY', 'SERVING'],
    ['UNHEALTHY', 'NOT_SERVING'],
  ] as const) {
    await withServer(
      () => status,
      async (client) => {
        assert.is(await check(client), answer)
        assert.is(await check(client, 'failover.Failover'), answer)
        assert.is(await check(client, 'nothing'), grpc.status.NOT_FOUND)
        const [ours, nothing] = [watch(client), watch(client, 'nothing')]
        await soon('both have heard', () => ours.seen[0] === answer && nothing.seen[0] === 'SERVICE_UNKNOWN')
        ours.cancel()
        nothing.cancel()
      },
    )
  }
})

test('a health check that fails is a node that does not serve', async () => {
  await withServer(
    () => {
      throw new Error('no')
    },
    async (client) => assert.is(await check(client), 'NOT_SERVING'),
  )
})

test('the end of the server does not wait for those who watch', async () => {
  await withServer(
    () => 'HEALTHY',
    async (client, close) => {
      const watching = [watch(client), watch(client)]
      await soon('they watch', () => watching.every(({ seen }) => seen.length === 1))
      await within(20_000, 'the end', close())
      await soon('they hear of it', () => watching.every(({ seen }) => seen[1] === 'end'))
    },
  )
})

test('a change is told to those who watch, of whom there are so many at most', async () => {
  let well = true
  let asked = 0
  const health = healthService(async () => {
    asked += 1
    return well
  }, 10)
  const server = new grpc.Server()
  server.addService(health.service, health.implementation)
  const port = await new Promise<number>((resolve) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (_, bound) => resolve(bound)),
  )
  const client: Client = new healthDefinition(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
  try {
    const watching = Array.from({ length: 16 }, () => watch(client))
    await soon('they watch', () => watching.every(({ seen }) => seen[0] === 'SERVING'))
    assert.is(asked, 1, 'one question serves them all')
    const late = watch(client)
    await soon('one too many', () => late.seen[0] === grpc.status.RESOURCE_EXHAUSTED)
    well = false
    await soon('they hear', () => watching.every(({ seen }) => seen[1] === 'NOT_SERVING'))
    watching[0]?.cancel()
    await soon('its place is free', async () => {
      const next = watch(client)
      await soon('an answer', () => next.seen.length > 0)
      next.cancel()
      return next.seen[0] === 'NOT_SERVING'
    })
  } finally {
    health.end()
    client.close()
    server.forceShutdown()
  }
})

test('health is for those on the list only', async () => {
  const { node, operator, stranger } = await certificates('node', 'operator', 'stranger')
  assert.ok(node && operator && stranger)
  const silent = process.stderr.write
  process.stderr.write = () => true
  const handlers = { health_check: async () => ({ status: 'HEALTHY', components: [] }) }
  const server = await serve({ bind: '127.0.0.1:0', tls: node, allowed: ['operator'], handlers })
  try {
    for (const [tls, answer] of [
      [operator, 'SERVING'],
      [stranger, grpc.status.PERMISSION_DENIED],
    ] as const) {
      const client = new healthDefinition(
        `localhost:${server.port}`,
        grpc.credentials.createSsl(tls.ca, tls.key, tls.cert),
      )
      assert.is(await check(client), answer)
      const watching = watch(client)
      await soon('an answer', () => watching.seen[0] === answer)
      client.close()
    }
  } finally {
    process.stderr.write = silent
    await server.close(100)
  }
})

test.run()
