/** A client that knows the Go original's proto and nothing else, against our server. */
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { serve } from '../lib/apiserver.ts'
import { load } from '../lib/config.ts'
import { demotion } from '../lib/demotion.ts'
import { Failed } from '../lib/errors.ts'
import type { Etcd } from '../lib/etcd.ts'
import { log } from '../lib/log.ts'
import { nodeHandlers } from '../lib/nodeapi.ts'
import { keeper } from '../lib/pausekeeper.ts'
import { consoleOf, PauseBlocked } from '../lib/pgbouncer.ts'
import { until } from '../lib/wait.ts'
import { fakeCluster } from './fake-cluster.ts'
import { fakeConsole } from './fakeconsole.ts'

log.setLevel('error')
const file = fileURLToPath(new URL('fixtures/original.proto', import.meta.url))
const loaded = loadSync(file, { keepCase: true, longs: Number, enums: Number, defaults: true })
const Client = (
  grpc.loadPackageDefinition(loaded) as never as { failover: { Failover: grpc.ServiceClientConstructor } }
).failover.Failover

type Reply = Record<string, { seconds: number; nanos: number }> & {
  status: number
  migrating_to: string
  address: string
}
type Call = (rpc: string, request?: object) => Promise<Reply>

interface World {
  call: Call
  /** What PgBouncer and Pacemaker were told. */
  did: () => string[]
  /** Without the wire. */
  handlers: ReturnType<typeof nodeHandlers>
  dir: string
  pause: { fails?: Error; expiry: () => number }
}

/** Our handlers for a Postgres node; PgBouncer is an object, Pacemaker a script that writes down its arguments. */
async function withNode(body: (world: World) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-wire-'))
  const notes = join(dir, 'notes')
  const note = (text: string) => writeFileSync(notes, `${text}\n`, { flag: 'a' })
  note('')
  const cibadmin = `#!/bin/sh
case $* in
*--query*) exit 105 ;;
*--modify*)
  # Where it is slow, so slow that one which does not wait for it is sooner.
  n=0
  while [ -e ${dir}/slow ] && [ $n -lt 50 ] && ! grep -q -- --delete ${notes}; do n=$((n + 1)); sleep 0.02; done
  echo "$*" >>${notes} ;;
*) echo "$*" >>${notes} ;;
esac
`
  writeFileSync(join(dir, 'cibadmin'), cibadmin)
  chmodSync(join(dir, 'cibadmin'), 0o755)
  const path = process.env.PATH
  process.env.PATH = `${dir}:${path}`

  const pause: World['pause'] = {
    expiry: () => (pauses.current()?.deadline ?? 0) - Number(process.hrtime.bigint() / 1_000_000n),
  }
  const valve = {
    pause: async ({ timeoutMs }: { timeoutMs: number }) => {
      note(`PAUSE within ${timeoutMs}`)
      if (pause.fails) throw pause.fails
    },
    resume: async () => {
      note('RESUME')
      return 5
    },
  }
  const pauses = keeper(valve, join(dir, 'pause.json'))
  const sockets = [`--pgbouncer-socket-dir=${dir}`, `--postgres-socket-dir=${dir}`]
  const { config } = load('supervise', [...sockets, '--pacemaker-get-timeout=30s'], {
    PGCM_CONFIG_FILE: '/dev/null',
  })
  // Addresses for names: they need no look-up, and are not loopback.
  const machines = {
    '10.0.0.11': '10.0.0.11',
    '10.0.0.12': '10.0.0.12',
    '10.0.0.13': '10.0.0.13',
    app: '10.0.0.21',
  }
  const { view } = fakeCluster(undefined, machines)
  const names = { resource: 'Postgresql', clone: 'msPostgresql' }
  const etcd = { get: async () => null } as unknown as Etcd
  const move = demotion(names, dir, async () => {})
  const handlers = nodeHandlers(config, names, consoleOf(config), etcd, pauses, move, view, () => 0)
  const server = await serve({ bind: '127.0.0.1:0', tls: null, allowed: [], handlers })
  const client = new Client(`127.0.0.1:${server.port}`, grpc.credentials.createInsecure())
  const call: Call = (rpc, request = {}) =>
    new Promise((resolve, reject) =>
      client[rpc]?.(request, { deadline: Date.now() + 5000 }, (error: Error | null, reply: Reply) =>
        error ? reject(error) : resolve(reply),
      ),
    )
  try {
    const did = () => readFileSync(notes, 'utf8').split('\n').filter(Boolean)
    await body({ call, pause, did, handlers, dir })
  } finally {
    client.close()
    pauses.close()
    await server.close(100)
    process.env.PATH = path
    rmSync(dir, { recursive: true })
  }
}

const ms = ({ seconds, nanos }: { seconds: number; nanos: number } = { seconds: 0, nanos: 0 }) =>
  seconds * 1000 + nanos / 1e6
const refusal = (promise: Promise<unknown>) =>
  promise.then(
    () => assert.unreachable('it should have failed') as never,
    ({ code, details }) => ({ code, details }),
  )

test('a whole failover: pause, migrate, resume, unmigrate', async () => {
  await withNode(async ({ call, did }) => {
    const began = Date.now()
    const paused = await call('pause', { timeout: 5, expiry: 25 })
    assert.ok(Math.abs(ms(paused.created_at) - began) < 2000)
    assert.is(ms(paused.expires_at) - ms(paused.created_at), 25_000)

    const moved = await call('migrate')
    assert.equal([moved.migrating_to, moved.address], ['10.0.0.12', '10.0.0.12'])
    assert.ok(Math.abs(ms(moved.created_at) - began) < 3000)

    assert.ok(ms((await call('resume')).created_at) >= began)
    assert.ok(ms((await call('unmigrate')).created_at) >= began)
    const [pause, migrate, resume, unmigrate, ...more] = did()
    assert.is(pause, 'PAUSE within 5000')
    assert.match(
      migrate ?? '',
      /^--modify --allow-create .*<rsc_location id="pgcm-move-msPostgresql".*value="10.0.0.12"/,
    )
    assert.is(resume, 'RESUME')
    assert.match(unmigrate ?? '', /^--delete .*pgcm-move-msPostgresql/)
    assert.equal(more, [])
  })
})

test('its move ends by itself after a minute: it never said how long', async () => {
  await withNode(async ({ call, did }) => {
    await call('migrate')
    const end = Date.parse(did()[0]?.match(/ end="([^"]+)"/)?.[1] ?? '')
    assert.ok(Math.abs(end - Date.now() - 60_000) < 3000, `${end}`)
  })
})

test('a pause when it is paused already is no error, and lasts from now on', async () => {
  await withNode(async ({ call, did, pause }) => {
    await call('pause', { timeout: 5, expiry: 10 })
    await call('pause', { timeout: 5, expiry: 80 })
    assert.ok(pause.expiry() > 70_000)
    assert.equal(did(), ['PAUSE within 5000', 'PAUSE within 5000'])
    await call('resume')
    assert.is(did().at(-1), 'RESUME')
  })
})

test('a resume without an owner ends whatever pause there is, and one that is not needed is no error', async () => {
  await withNode(async ({ call, did }) => {
    await call('resume')
    await call('pause', { timeout: 1, expiry: 10 })
    await call('resume')
    assert.equal(did(), ['RESUME', 'PAUSE within 1000', 'RESUME'])
  })
})

test('its pause ends at the expiry, although nobody resumes', async () => {
  await withNode(async ({ call, did }) => {
    const loud = process.stderr.write
    process.stderr.write = () => true // the log of an expiry
    try {
      await call('pause', { timeout: 1, expiry: 1 })
      await until('it has resumed', { timeoutMs: 4000, everyMs: 10 }, () => did().at(-1) === 'RESUME')
    } finally {
      process.stderr.write = loud
    }
  })
})

test('a pause that open transactions block has the code that the original gives', async () => {
  await withNode(async ({ call, pause, did }) => {
    pause.fails = new PauseBlocked(2000, [])
    assert.is((await refusal(call('pause', { timeout: 2, expiry: 10 }))).code, grpc.status.DEADLINE_EXCEEDED)
    pause.fails = new Failed('PgBouncer: cannot connect')
    assert.equal(await refusal(call('pause', { timeout: 2, expiry: 10 })), {
      code: grpc.status.UNKNOWN,
      details: 'PgBouncer: cannot connect',
    })
    assert.equal(did().slice(-2), ['PAUSE within 2000', 'RESUME'])
  })
})

for (const [what, request] of [
  ['no timeout', { expiry: 10 }],
  ['no expiry, which the original takes for never', { timeout: 5 }],
  ['a negative expiry', { timeout: 5, expiry: -1 }],
  ['an expiry beyond the longest', { timeout: 5, expiry: 81 }],
] as const)
  test(`a pause with ${what} is refused, and nothing is paused`, async () => {
    await withNode(async ({ call, did }) => {
      assert.is((await refusal(call('pause', request))).code, grpc.status.INVALID_ARGUMENT)
      assert.equal(did(), [])
    })
  })

test('a move is taken back once Pacemaker has got it, and not before: it would come with nobody to hold it', async () => {
  await withNode(async ({ handlers, did, dir }) => {
    const postgres = await fakeConsole(join(dir, '.s.PGSQL.5432'), '')
    writeFileSync(join(dir, 'slow'), '')
    const over = new AbortController()
    const request = { target: '10.0.0.12', lifetime_ms: 60_000, expiry_ms: 15_000 }
    const preparing = handlers.prepare(request, over.signal).catch((error) => error)
    try {
      const held = () => existsSync(join(dir, 'hold'))
      await until('it is to be held', { timeoutMs: 20_000, everyMs: 5 }, held)
      await handlers.unmigrate({}, over.signal)
      over.abort()
      assert.instance(await preparing, Failed)
      assert.equal(
        did().map((words) => words.split(' ')[0]),
        ['--modify', '--delete'],
      )
      assert.not(held())
    } finally {
      over.abort()
      await preparing
      postgres.close()
    }
  })
})

test('health_check says what it found, not HEALTHY always: here nothing answers', async () => {
  await withNode(async ({ call }) => {
    assert.is((await call('health_check')).status, 2)
  })
})

test.run()
