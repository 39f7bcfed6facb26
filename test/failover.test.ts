import grpc from '@grpc/grpc-js'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Api, ApiError, type Blocker } from '../lib/api.ts'
import { ActNow, Expected, Failed, Refused } from '../lib/errors.ts'
import { blockersKey } from '../lib/proto.ts'
import { sleep } from '../lib/wait.ts'
import { byAddress, clean, scene } from './failover-scene.ts'

test('the primary moves to the synchronous standby; clients wait for nothing but the move', async () => {
  const it = scene()
  assert.is(await it.run(), undefined)
  clean(it)
  assert.is(it.state.primary, 'pg02')
  assert.match(it.text(), 'pg02 (10.0.0.12) is primary instead of pg01; timeline 10')
  const order = it.state.calls.filter((call) => !/status|writable|check$/.test(call))
  assert.equal(order, [
    'lock',
    'pg01 checkpoint',
    'pg01 prepare',
    ...['pg01 pause', 'pg02 pause', 'pg03 pause', 'app01 pause'],
    'pg01 proceed',
    ...['pg01 resume', 'pg02 resume', 'pg03 resume', 'app01 resume'].sort(
      (a, b) => order.indexOf(a) - order.indexOf(b),
    ),
    'pg02 unmigrate',
    'unlock',
  ])
})

test('--to names another standby', async () => {
  const it = scene(['--yes', '--to=pg03'])
  assert.is(await it.run(), undefined)
  assert.is(it.state.primary, 'pg03')
})

for (const named of ['name', 'address'])
  test(`a node that is down, and not needed, is left out; the move goes on without it: endpoints by ${named}`, async () => {
    const it = scene(['--yes'], (call) => {
      if (call.startsWith('pg03 ')) throw new Failed('no answer')
    })
    if (named === 'address') byAddress(it)
    const whole = it.view
    for (const name of ['pg01', 'pg02']) {
      const api = it.apis.get(name) as Api
      api.status = async () => {
        const view = whole()
        const nodes = view.nodes.map((node) => (node.name === 'pg03' ? { ...node, online: false } : node))
        return { ...it.statusOf(name), cluster: { ...view, nodes } }
      }
    }
    assert.is(await it.run(), undefined)
    clean(it)
    assert.is(it.state.primary, 'pg02')
    assert.match(it.text(), 'pg03 is down, and not needed')
    assert.equal(
      it.state.calls.filter((call) => call.startsWith('pg03 ') && !call.endsWith(' status')),
      [],
    )
  })

test('--json: events, then a receipt, all JSON', async () => {
  const it = scene(['--yes', '--json'])
  await it.run()
  const lines = it
    .text()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const receipt = lines.at(-1)
  assert.is(receipt.event, 'receipt')
  assert.equal([receipt.ok, receipt.from, receipt.to, receipt.timeline], [true, 'pg01', 'pg02', 10])
  assert.type(receipt.pauseMs, 'number')
  assert.ok(lines.some(({ event, step }) => event === 'done' && step === 'promoted'))
  assert.is(it.kept.length, 1)
})

/** While the operator is asked: after the first look, before the second. */
const meanwhile = (change: (it: ReturnType<typeof scene>) => void) => {
  const it: ReturnType<typeof scene> = scene(['--yes'], (call) => call === 'lock' && change(it))
  return it
}

for (const [what, changes, says] of [
  ['pauses replay', { replayPaused: true }, 'meanwhile lag: replay is paused on pg02'],
  ['fills its disk', { diskFree: 1 }, 'meanwhile disk: 0 MiB free on pg02'],
] as const)
  test(`while a person reads the prompt the target ${what}: it is not moved there`, async () => {
    const it = meanwhile(() => {
      const pg02 = it.apis.get('pg02') as Api
      pg02.status = async () => {
        const { postgres, ...rest } = it.statusOf('pg02')
        return { ...rest, postgres: postgres && { ...postgres, ...changes } }
      }
    })
    const error = await it.run()
    assert.instance(error, Failed)
    assert.is(error?.message, says)
    clean(it)
    assert.is(it.state.primary, 'pg01')
  })

test('while a person reads the prompt the target goes silent: it is not moved there', async () => {
  const it = meanwhile(() => {
    const whole = it.statusOf
    for (const [name, api] of it.apis)
      api.status = async () => {
        if (name === 'pg02') throw new Failed('no answer')
        const { cluster, ...rest } = whole(name)
        const nodes = cluster?.nodes.map((node) => ({ ...node, online: node.name !== 'pg02' })) ?? []
        return { ...rest, cluster: cluster && { ...cluster, nodes } }
      }
  })
  assert.is((await it.run())?.message, 'meanwhile pg02 does not answer')
  clean(it)
})

test('while a person reads the prompt the role goes away and comes back: that is no other primary', async () => {
  const it = meanwhile(() => {
    it.state.epoch += 3
  })
  assert.is(await it.run(), undefined)
  clean(it)
  assert.is(it.state.primary, 'pg02')
})

test('--check touches nothing', async () => {
  const it = scene(['--check'])
  assert.is(await it.run(), undefined)
  assert.ok(it.state.calls.every((call) => call.endsWith(' status')))
})

test('--dry-run says each call, and makes none', async () => {
  const it = scene(['--dry-run'])
  assert.is(await it.run(), undefined)
  assert.ok(it.state.calls.every((call) => call.endsWith(' status')))
  for (const said of [
    'rpc pause {timeout_ms: 200, expiry_ms: 3000} -> pg01, pg02, pg03, app01',
    'rpc prepare {target: pg02, lifetime_ms: 33900, expiry_ms: 2200} -> pg01',
    'rpc proceed -> pg01',
    'whatever happens, unmigrate',
    'whatever happens, resume',
  ])
    assert.match(it.text(), said)
})

test('without a terminal it proceeds only with --yes', async () => {
  const it = scene([])
  const error = await it.run()
  assert.instance(error, Refused)
  assert.match(error?.hint ?? '', '--yes')
  assert.ok(it.state.calls.every((call) => call.endsWith(' status')))
})

for (const [flag, says] of [
  ['--to=pg01', 'pg01 is the primary already'],
  ['--to=pg09', 'pg09 is no Postgres node that answers'],
  ['--to=app01', 'app01 is no Postgres node that answers'],
] as const) {
  test(`${flag} is refused`, async () => {
    const it = scene(['--yes', flag])
    const error = await it.run()
    assert.instance(error, Refused)
    assert.is(error?.message, says)
  })
}

for (const [name, key, ms, most] of [
  ['pause-expiry', 'pauseExpiry', 80_001, '80s'],
  ['rejoin-timeout', 'rejoinTimeout', 3_600_001, '1h'],
] as const)
  test(`a ${name} that no node would grant is refused before anything is asked`, async () => {
    const it = scene(['--yes', '--rejoin'])
    it.config[key] = ms
    const error = await it.run()
    assert.instance(error, Refused)
    assert.is(error?.message, `${name} is longer than ${most}`)
    assert.ok(error?.hint)
    assert.equal(it.state.calls, [])
  })

test('a held lock is refused before anything is touched', async () => {
  const it = scene()
  it.state.locked = true
  const error = await it.run()
  assert.instance(error, Refused)
  assert.match(error?.message ?? '', 'held by other (pid 1) on here')
})

test('a lock that is lost while clients are being held ends the run: all is undone, and the primary stays', async () => {
  const it = scene(['--yes'], (call) => call === 'pg03 pause' && it.state.lost.abort())
  const error = await it.run()
  assert.instance(error, Failed)
  assert.match(error?.message ?? '', 'lost the lock in etcd')
  clean(it)
  assert.is(it.state.primary, 'pg01')
})

test('--lock-timeout=0s, not to wait for the lock: the time to give it back is another', async () => {
  const it = scene(['--yes', '--lock-timeout=0s'], (call) => (call === 'unlock' ? sleep(20) : undefined))
  assert.is(await it.run(), undefined)
  clean(it)
})

const inTheWay = (via: string): Blocker => ({
  ...{ database: 'app', user: 'jane', client: `10.0.0.5:${via}`, ageMs: null },
  ...{ state: 'in transaction', via: `10.0.0.21:${via}` },
})
function blocked(peer: string, blockers: Blocker[]): ApiError {
  const metadata = new grpc.Metadata()
  metadata.set(blockersKey, Buffer.from(JSON.stringify(blockers)))
  const error = { code: 4, details: 'not idle', message: '', name: '', metadata }
  return new ApiError(peer, 'pause', error, 200)
}

test('open transactions: all are named, with what the primary knows of them, and nobody stays paused', async () => {
  const it = scene(['--yes'], (call) => {
    if (call === 'pg03 pause') throw blocked('pg03', [inTheWay('1')])
    if (call === 'app01 pause') throw blocked('app01', [inTheWay('2')])
  })
  const pg01 = it.apis.get('pg01') as Api
  pg01.status = async () => {
    const open = {
      database: 'app',
      user: 'jane',
      client: '10.0.0.21:2',
      ageMs: 9000,
      state: 'idle in transaction',
    }
    const status = it.statusOf('pg01')
    status.postgres?.longest.push(open)
    return status
  }
  const error = await it.run()
  assert.instance(error, Failed)
  assert.match(error?.message ?? '', 'app: user jane from 10.0.0.5:1, in transaction')
  assert.match(error?.message ?? '', 'app: user jane from 10.0.0.5:2, idle in transaction for 9.0 s')
  clean(it)
  assert.is(it.state.primary, 'pg01')
})

test('a PgBouncer that cannot pause for another reason: the others are not waited for', async () => {
  const it = scene(['--yes'], (call, _, signal) => {
    if (call === 'pg03 pause') throw new Failed('pg03: pause: gone')
    if (call === 'app01 pause') return new Promise((_, reject) => signal?.addEventListener('abort', reject))
  })
  assert.is((await it.run())?.message, 'pg03: pause: gone')
  clean(it)
})

for (const named of ['name', 'address'])
  test(`Pacemaker chooses another node: clients go there, and the run says so: endpoints by ${named}`, async () => {
    const it = scene()
    if (named === 'address') byAddress(it)
    it.state.chooses = 'pg03'
    const error = await it.run()
    assert.is(error?.message, 'pg03 became primary, not pg02')
    clean(it)
    assert.is(it.state.pointsAt.get('app01'), '10.0.0.13')
  })

test('the move takes too long: clients are let go onto whoever is primary', async () => {
  const it = scene()
  it.state.moveMs = 1000
  const error = await it.run()
  assert.instance(error, Failed, error?.message)
  clean(it)
})

for (const at of ['pg01 proceed', 'pg02 writable']) {
  test(`Ctrl-C at ${at}: too late, the move goes on and ends well`, async () => {
    const it: ReturnType<typeof scene> = scene(['--yes'], (call) => {
      if (call === at) it.abort(new Failed('aborted by SIGINT'))
    })
    assert.is(await it.run(), undefined)
    clean(it)
    assert.is(it.state.primary, 'pg02')
    assert.match(it.text(), 'the move is under way')
  })
}

test('a PgBouncer that cannot be resumed: act now', async () => {
  const it = scene(['--yes'], (call) => {
    if (call === 'app01 resume') throw new Failed('app01: resume: gone')
  })
  const error = await it.run()
  assert.instance(error, ActNow)
  assert.match(error?.message ?? '', 'app01: resume: gone')
  assert.match(error?.hint ?? '', 'resumes by itself')
  assert.equal([...it.state.paused.keys()], ['app01'])
})

test('a blip while resuming is overcome', async () => {
  let times = 0
  const it = scene(['--yes'], (call) => {
    if (call === 'app01 resume' && ++times === 1) throw new Failed('blip')
  })
  assert.is(await it.run(), undefined)
  clean(it)
})

/** What may happen at a call. Wherever it does, nothing is left behind. */
const mishaps: Record<string, (it: ReturnType<typeof scene>, signal?: AbortSignal) => unknown> = {
  fails: () => {
    throw new Failed('mishap')
  },
  hangs: (_, signal) =>
    new Promise((_, reject) => {
      setTimeout(() => reject(new Failed('no answer')), 400)
      signal?.addEventListener('abort', () => reject(new Failed('cancelled')))
    }),
  'sees an abort': (it) => it.abort(new Failed('aborted by SIGINT')),
  'fails as the run is aborted': (it) => {
    it.abort(new Failed('aborted by SIGINT'))
    throw new Failed('mishap')
  },
}

for (const [what, mishap] of Object.entries(mishaps)) {
  test(`whichever call ${what}, nothing is left behind`, async () => {
    const plain = scene()
    await plain.run()
    await Promise.all(
      plain.state.calls.map(async (call, at) => {
        const it: ReturnType<typeof scene> = scene(['--yes'], (_, index, signal) =>
          index === at ? mishap(it, signal) : undefined,
        )
        const error = await it.run()
        if (error && !(error instanceof Expected)) throw error
        // Only what an undo itself meets may remain.
        if (error instanceof ActNow) assert.match(call, /resume|unmigrate|unlock/, error.message)
        else clean(it, `${call} (call ${at}) ${what}`)
      }),
    )
  })
}

test.run()
