/** Random bytes and random fields against the running API: it answers, it stays, and every pause that is there ends. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http2 from 'node:http2'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import grpc from '@grpc/grpc-js'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { connect } from '../lib/api.ts'
import { type Handler, serve } from '../lib/apiserver.ts'
import { load } from '../lib/config.ts'
import { view } from '../lib/crmmon.ts'
import { demotion } from '../lib/demotion.ts'
import { Failed } from '../lib/errors.ts'
import type { Etcd } from '../lib/etcd.ts'
import { log } from '../lib/log.ts'
import { nodeHandlers } from '../lib/nodeapi.ts'
import { keeper, systemClock } from '../lib/pausekeeper.ts'
import { consoleOf } from '../lib/pgbouncer.ts'
import { definition } from '../lib/proto.ts'
import { type Random, randomOf, seed } from './random.ts'

const CASES = 10_000
const AT_ONCE = 20
const HOUR = 3_600_000
const paths = Object.values(definition.service)
const fixture = (name: string) =>
  readFileSync(new URL(`./fixtures/trixie-healthy.${name}.xml`, import.meta.url), 'utf8')

function varint(n: number): number[] {
  const bytes = []
  for (let left = n; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left]
    bytes.push((left % 128) + 128)
  }
}

/** Fields of our numbers and of others, of the right wire type and of others, whole and cut off. */
function message(random: Random): Buffer {
  if (random.chance(0.2)) return random.bytes(random.below(40))
  const parts: Buffer[] = []
  for (let n = random.below(5); n > 0; n--) {
    const field = random.pick([1, 2, 3, 10, 10, 10, 11, 12, random.below(2 ** 20) + 1])
    const wire = random.pick([0, 2, 2, random.below(8)])
    parts.push(Buffer.from(varint(field * 8 + wire)))
    if (wire === 0) {
      const number = random.pick([0, 1, 5, 1000, HOUR, HOUR + 1, 2 ** 31, 2 ** 53 - 1, random.below(1e9)])
      parts.push(random.chance(0.1) ? Buffer.alloc(10, 0xff) : Buffer.from(varint(number)))
    } else if (wire === 2) {
      const text = random.pick([
        '10.77.0.1',
        'pg01',
        `${random.pick(['', 'x'])}${'🐘'.repeat(1500)}`,
        'x'.repeat(random.below(3000)),
        String.fromCharCode(0xd800),
      ])
      const body = random.chance(0.5)
        ? Buffer.from(text)
        : random.chance(0.5)
          ? Buffer.from([0xed, 0xa0, 0x80])
          : random.bytes(random.below(30))
      parts.push(Buffer.from(varint(random.chance(0.9) ? body.length : random.below(1e6))), body)
    } else parts.push(random.bytes(random.below(12)))
  }
  return Buffer.concat(parts)
}

/** A gRPC frame around it, mostly an honest one. */
function frame(random: Random): Buffer {
  const body = message(random)
  const head = Buffer.alloc(5)
  head.writeUInt32BE(random.chance(0.95) ? body.length : random.below(2 ** 32), 1)
  if (random.chance(0.03)) head[0] = random.below(256)
  return random.chance(0.03) ? random.bytes(random.below(20)) : Buffer.concat([head, body])
}

function call(session: http2.ClientHttp2Session, random: Random): Promise<number | undefined> {
  const stream = session.request({
    ':method': random.chance(0.98) ? 'POST' : 'GET',
    ':path': random.chance(0.97)
      ? (random.pick(paths)?.path ?? '/')
      : `/failover.Failover/${random.below(9)}`,
    'content-type': random.chance(0.98) ? 'application/grpc' : 'text/plain',
    te: 'trailers',
    'grpc-timeout': random.pick(['20m', '5m', '1n', '0S', '99999999H', 'x', '30m']),
    ...(random.chance(0.1) && { 'grpc-encoding': random.pick(['gzip', 'deflate', 'identity', 'x']) }),
  })
  let status: number | undefined
  const look = (headers: http2.IncomingHttpHeaders) => {
    if (headers['grpc-status'] !== undefined) status = Number(headers['grpc-status'])
    else if (headers[':status'] !== '200' && headers[':status'] !== undefined) status = -1
  }
  stream.on('response', look)
  stream.on('trailers', look)
  stream.on('error', () => {})
  stream.resume()
  stream.end(frame(random))
  return new Promise((resolve) => {
    // A frame that promises more than it brings gets an answer only when its time is up.
    const timer = setTimeout(() => stream.close(), 2000)
    stream.on('close', () => {
      clearTimeout(timer)
      resolve(status)
    })
  })
}

test('10,000 calls that nobody meant', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-fuzz-'))
  const path = process.env.PATH
  process.env.PATH = dir // no Pacemaker here, and none of this machine's
  const lines: { level: string; event: string; stack?: string }[] = []
  const write = process.stderr.write
  process.stderr.write = (text) => {
    lines.push(JSON.parse(String(text)))
    return true
  }
  log.setLevel('warn')
  let paused = false
  const valve = {
    pause: async () => {
      paused = true
    },
    resume: async () => {
      paused = false
      return 0
    },
  }
  const pauses = keeper(valve, join(dir, 'pause.json'), systemClock())
  const args = [`--pgbouncer-socket-dir=${dir}`, `--postgres-socket-dir=${dir}`, '--pgbouncer-timeout=100ms']
  const { config } = load('supervise', args, { PGCM_CONFIG_FILE: '/dev/null' })
  const names = { resource: config.pacemakerResource, clone: config.pacemakerClone }
  const address = (xml: string) => xml.replace(/pg0(\d)/g, '10.77.0.$1')
  const seen = view(address(fixture('crm_mon')), address(fixture('cib')), names)
  const etcd = { get: async () => Promise.reject(new Failed('no etcd')) } as unknown as Etcd
  const move = demotion(names, dir, async () => {})
  const node = nodeHandlers(
    config,
    names,
    consoleOf(config),
    etcd,
    pauses,
    move,
    () => seen,
    () => 0,
  )
  const handlers = node as Record<string, Handler>
  const server = await serve({ bind: '127.0.0.1:0', tls: null, allowed: [], handlers })
  const api = connect(`127.0.0.1:${server.port}`, null)
  const origin = `http://127.0.0.1:${server.port}`
  const sessions = Array.from({ length: 4 }, () => http2.connect(origin).on('error', () => {}))
  const statuses = new Map<number | undefined, number>()
  let next = 0
  const lane = async (n: number) => {
    for (let number = next++; number < CASES; number = next++) {
      const random = randomOf(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number, 0x85ebca6b))
      if (number % 100 === 0) {
        // Not even HTTP/2, on a connection of its own.
        const socket = net.connect(server.port, '127.0.0.1').on('error', () => {})
        socket.end(
          random.chance(0.5) ? random.bytes(200) : `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n${random.text(200)}`,
        )
        await new Promise((resolve) => socket.resume().on('close', resolve))
      }
      let session = sessions[n % sessions.length] as http2.ClientHttp2Session
      if (session.closed || session.destroyed) {
        session = http2.connect(origin).on('error', () => {})
        sessions[n % sessions.length] = session
      }
      const status = await call(session, random)
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      const pause = pauses.current()
      assert.ok(!pause || pause.deadline - systemClock().uptime() <= HOUR, `case ${number}`)
    }
  }
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => lane(n)))
    assert.equal(
      lines.filter(({ event }) => event === 'api.bug').map(({ stack }) => stack),
      [],
    )
    const { NOT_FOUND, OK, INVALID_ARGUMENT, INTERNAL, DEADLINE_EXCEEDED } = grpc.status
    for (const code of [NOT_FOUND, OK, INVALID_ARGUMENT, INTERNAL, DEADLINE_EXCEEDED])
      assert.ok((statuses.get(code) ?? 0) > 0, `status ${code}: ${[...statuses].join(' ')}`)
    await api.resume({ deadlineMs: 5000 })
    assert.equal([pauses.current(), paused], [null, false])
  } catch (error) {
    throw new Error(`TEST_SEED=${seed}: ${error instanceof Error ? error.stack : error}`)
  } finally {
    for (const session of sessions) session.destroy()
    api.close()
    await server.close(100)
    pauses.close()
    process.stderr.write = write
    process.env.PATH = path
    rmSync(dir, { recursive: true })
  }
})

test.run()
