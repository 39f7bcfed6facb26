import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { connect, type Etcd, EtcdDown } from '../lib/etcd.ts'
import { followKeys, withNews } from '../lib/etcdfollow.ts'
import { grant, keep, register } from '../lib/etcdlease.ts'
import { LockHeld, lock } from '../lib/etcdlock.ts'
import { log } from '../lib/log.ts'
import { etcdComponent } from '../lib/poolerapi.ts'
import { now, since, until, within } from '../lib/wait.ts'
import { connectWorld } from '../lib/world.ts'
import { member, Store } from './etcdserver.ts'

log.setLevel('error')
type Member = Awaited<ReturnType<typeof member>>

async function cluster(body: (world: { store: Store; etcd: Etcd; members: Member[] }) => Promise<void>) {
  const store = new Store()
  const members = await Promise.all([member(store), member(store), member(store)])
  const endpoints = members.map(({ url }) => url).join(',')
  const { config } = load('supervise', [`--etcd-endpoints=${endpoints}`], { PGCM_CONFIG_FILE: '/dev/null' })
  const etcd = connect(config)
  const write = process.stderr.write
  process.stderr.write = () => true
  try {
    await body({ store, etcd, members })
  } finally {
    process.stderr.write = write
    etcd.close()
    for (const each of members) each.close()
  }
}

const soon = <T>(what: string, probe: () => T) => until(what, { timeoutMs: 20_000, everyMs: 2 }, probe)
const set = (members: Member[], mode: Member['state']['mode']) => {
  for (const each of members) each.state.mode = mode
}

test('keys are read and written below the namespace', async () => {
  await cluster(async ({ store, etcd }) => {
    store.put('/postgres/a', '1')
    store.put('/other/a', '2')
    assert.is((await etcd.get('/a'))?.value, '1')
    assert.is(await etcd.get('/b'), null)
    assert.ok(await etcd.replace(await etcd.read(['/a', '/b']), { '/b': '3' }))
    assert.equal([...(await etcd.list('/')).keys()], ['a', 'b'])
  })
})

test('a write is refused when somebody else has written', async () => {
  await cluster(async ({ store, etcd }) => {
    const seen = await etcd.read(['/a'])
    store.put('/postgres/a', 'theirs')
    assert.not(await etcd.replace(seen, { '/a': 'ours' }))
    assert.is((await etcd.get('/a'))?.value, 'theirs')
  })
})

test('a member that hangs or refuses costs a moment, not the answer', async () => {
  await cluster(async ({ store, etcd, members }) => {
    store.put('/postgres/a', '1')
    const [one, two, three] = members
    assert.ok(one && two && three)
    for (const mode of ['hang', 'refuse'] as const) {
      for (const pair of [[one], [two], [three], [one, two], [two, three]]) {
        set(members, 'answer')
        set(pair, mode)
        assert.is((await within(20_000, 'the answer', etcd.get('/a')))?.value, '1')
      }
    }
    set([one, two], 'hang')
    set([three], 'answer')
    await etcd.get('/a')
    one.state.asked = 0
    await etcd.get('/a') // the one that answered is asked first from now on
    assert.is(one.state.asked, 0)
  })
})

test('a leader election, when everybody refuses for a moment, is no failure', async () => {
  await cluster(async ({ store, etcd, members }) => {
    store.put('/postgres/a', '1')
    set(members, 'refuse')
    setTimeout(() => set(members, 'answer'), 100)
    assert.is((await etcd.get('/a'))?.value, '1')
  })
})

test('nobody there is one error that names everybody', async () => {
  await cluster(async ({ etcd, members }) => {
    set(members, 'refuse')
    const error = await etcd.get('/a').catch((e) => e)
    assert.instance(error, EtcdDown)
    for (const { url } of members) assert.ok(error.message.includes(url.slice(7)), error.message)
  })
})

test('news of a watch count if they are newer than what is known, key by key', () => {
  const value = (text: string, revision: string) => ({ value: text, revision })
  const news = (type: 'Put' | 'Delete', key: string, text: string, revision: string) =>
    ({ type, kv: { key: Buffer.from(key), value: Buffer.from(text), mod_revision: revision } }) as never
  const known = { values: { a: value('1', '5'), b: null }, at: { a: 10n, b: 10n } }
  const keyOf = (full: Buffer) => (['a', 'b'] as const).find((key) => key === full.toString())
  const after = (...all: never[]) => withNews(known, all, keyOf).values
  assert.equal(after(news('Put', 'a', 'old', '9'), news('Put', 'b', 'deleted since', '10')), known.values)
  assert.equal(after(news('Put', 'b', 'x', '12'), news('Put', 'a', '2', '11')), {
    a: value('2', '11'),
    b: value('x', '12'),
  })
  assert.equal(after(news('Delete', 'a', '', '11'), news('Put', 'a', '1', '5')).a, null)
  assert.equal(
    after(news('Put', 'a', '2', '9007199254740993'), news('Put', 'a', '1', '9007199254740992')).a,
    {
      ...value('2', '9007199254740993'),
    },
  )
  assert.equal(after(news('Put', 'c', 'not ours', '11')), known.values)
})

test('changes are followed, deletions too', async () => {
  await cluster(async ({ store, etcd }) => {
    const stop = new AbortController()
    const seen: (string | undefined)[] = []
    const settings = { pollMs: 60_000, retryMs: 50, signal: stop.signal }
    const following = followKeys(etcd, ['/a'], settings, (values) => void seen.push(values['/a']?.value))
    await soon('it looked', () => seen.length === 1)
    await soon('it watches', () => store.watchers.size === 1)
    store.put('/postgres/a', '1')
    await soon('it saw the change', () => seen.at(-1) === '1')
    store.put('/postgres/other', 'x')
    store.delete('/postgres/a')
    await soon('it saw the deletion', () => seen.length === 3)
    stop.abort()
    await following
    assert.equal(seen, [undefined, '1', undefined])
  })
})

test('a watch that says nothing is found out by the next look, and left', async () => {
  await cluster(async ({ store, etcd, members }) => {
    const stop = new AbortController()
    const seen: (string | undefined)[] = []
    for (const each of members) each.state.silent = true
    const settings = { pollMs: 100, retryMs: 50, signal: stop.signal }
    const following = followKeys(etcd, ['/a'], settings, (values) => void seen.push(values['/a']?.value))
    await soon('it watches', () => store.watchers.size === 1)
    const [before] = store.watchers
    const asked = () => members.reduce((sum, { state }) => sum + state.asked, 0)
    await soon('it has looked again, as the watch began', () => asked() >= 2)
    store.put('/postgres/a', '1')
    await soon('it saw the change', () => seen.at(-1) === '1')
    await soon(
      'it watches elsewhere',
      () => store.watchers.size === 1 && !store.watchers.has(before as never),
    )
    stop.abort()
    await following
  })
})

test('a member that answers no read loses its watch, though that says nothing wrong', async () => {
  await cluster(async ({ store, etcd, members }) => {
    const stop = new AbortController()
    const seen: (string | undefined)[] = []
    const settings = { pollMs: 100, retryMs: 50, signal: stop.signal }
    const following = followKeys(etcd, ['/a'], settings, (values) => void seen.push(values['/a']?.value))
    await soon('it watches', () => store.watchers.size === 1 && etcd.seen.watching)
    const [before] = store.watchers
    const [asked, ...others] = [...members].sort((a, b) => b.state.asked - a.state.asked)
    for (const each of others) assert.is(each.state.asked, 0)
    Object.assign(asked?.state ?? {}, { mode: 'hang', silent: true })
    await soon(
      'it watches elsewhere',
      () => store.watchers.size === 1 && !store.watchers.has(before as never),
    )
    store.put('/postgres/a', '1')
    await soon('it saw the change', () => seen.at(-1) === '1')
    stop.abort()
    await following
  })
})

test('while the watch stands and its member answers, polls are three times as far apart', async () => {
  await cluster(async ({ store, etcd, members }) => {
    const stop = new AbortController()
    const settings = { pollMs: 100, retryMs: 50, signal: stop.signal }
    const following = followKeys(etcd, ['/a'], settings, () => {})
    await soon('it watches', () => store.watchers.size === 1 && etcd.seen.watching)
    const asked = () => members.reduce((sum, { state }) => sum + state.asked, 0)
    const polls = async (count: number) => {
      const [start, before] = [now(), asked()]
      await soon(`${count} polls`, () => asked() >= before + count)
      return since(start)
    }
    await polls(1) // the one of the watch's beginning may be under way
    assert.ok((await polls(2)) > 350, 'two polls are 600 ms apart, not 200') // an interval is promised
    stop.abort()
    await following
  })
})

test('while etcd is away the last state stays; afterwards it is caught up', async () => {
  await cluster(async ({ store, etcd, members }) => {
    const stop = new AbortController()
    const seen: (string | undefined)[] = []
    store.put('/postgres/a', '1')
    const settings = { pollMs: 50, retryMs: 50, signal: stop.signal }
    const following = followKeys(etcd, ['/a'], settings, (values) => void seen.push(values['/a']?.value))
    await soon('it looked', () => seen.length === 1)
    set(members, 'refuse')
    await soon('it noticed', () => (members[0]?.state.asked ?? 0) > 2)
    store.put('/postgres/a', '2')
    set(members, 'answer')
    await soon('it caught up', () => seen.at(-1) === '2')
    stop.abort()
    await following
    assert.equal(seen, ['1', '2'])
  })
})

test('the health says whether etcd answers, and does not wait for it', async () => {
  await cluster(async ({ store, etcd, members }) => {
    const health = () => etcdComponent(etcd, { etcdTimeout: 200, etcdPostgresMasterKey: '/master' })
    assert.equal(await health(), { name: 'etcd', ok: true, detail: 'the primary is not published' })
    store.put('/postgres/master', '10.0.0.1')
    assert.equal(await health(), { name: 'etcd', ok: true, detail: 'the primary is 10.0.0.1' })
    set(members, 'hang')
    assert.equal(await health(), { name: 'etcd', ok: false, detail: 'etcd took longer than 200 ms' })
  })
})

const terms = { ttlMs: 15_000, waitMs: 0 }

test('the lock has one holder, and says who', async () => {
  await cluster(async ({ etcd, store }) => {
    const first = await lock(etcd, '/lock', { host: 'a', pid: 1 }, terms)
    await first.check()
    const second = await lock(etcd, '/lock', { host: 'b' }, terms).catch((error) => error)
    assert.instance(second, LockHeld)
    assert.is(second.message, 'another failover holds the lock: host a, pid 1')
    await first.release()
    assert.equal([store.keys.size, store.leases.size], [0, 0])
    await (await lock(etcd, '/lock', { host: 'b' }, terms)).release()
  })
})

test('a lease that etcd does not grant is given up within the attempts of one request', async () => {
  await cluster(async ({ etcd, members, store }) => {
    for (const each of members) each.state.grants = false
    const error = await within(20_000, 'the lock', lock(etcd, '/lock', { host: 'a' }, terms)).catch((e) => e)
    assert.instance(error, EtcdDown)
    assert.match(error.message, /^etcd does not answer: .*DEADLINE_EXCEEDED/)
    assert.is(store.keys.size, 0)
  })
})

test('whoever waits for the lock gets it when it is free', async () => {
  await cluster(async ({ etcd, store }) => {
    const first = await lock(etcd, '/lock', { host: 'a' }, terms)
    const second = lock(etcd, '/lock', { host: 'b' }, { ...terms, waitMs: 30_000 })
    await soon('it has found it taken', () => store.refused > 0)
    await first.release()
    await (await second).release()
  })
})

test('whoever waits longer than a lease keeps it, and takes a new one where it was lost', async () => {
  await cluster(async ({ etcd, store, members }) => {
    const slow = (what: string, probe: () => unknown) => until(what, { timeoutMs: 20_000, everyMs: 2 }, probe)
    const first = await lock(etcd, '/lock', { host: 'a' }, { ...terms, ttlMs: 600_000 }) // not renewed here
    const second = lock(etcd, '/lock', { host: 'b' }, { ttlMs: 2000, waitMs: 60_000 })
    await slow('the lease is renewed', () => members.some(({ state }) => state.renewed >= 2))
    store.revoke([...store.leases][1] ?? '')
    await slow('there is a new one', () => store.leases.size === 2)
    await first.release()
    const mine = await within(20_000, 'the lock', second)
    await mine.check()
    await mine.release()
    assert.equal([store.keys.size, store.leases.size], [0, 0])
  })
})

test('a lease that was lost unseen does not keep the lock from whoever waited for it', async () => {
  await cluster(async ({ etcd, store }) => {
    const first = await lock(etcd, '/lock', { host: 'a' }, terms)
    const second = lock(etcd, '/lock', { host: 'b' }, { ...terms, waitMs: 60_000 })
    await soon('it has a lease', () => store.leases.size === 2)
    store.revoke([...store.leases][1] ?? '')
    await first.release()
    const mine = await within(20_000, 'the lock', second)
    await mine.check()
    await mine.release()
  })
})

test('a lock whose holder is dead for sure is taken over, without waiting for its lease', async () => {
  await cluster(async ({ etcd }) => {
    const orphan = await lock(etcd, '/lock', { pid: 1 }, terms)
    const living = { ...terms, dead: (holder: string) => JSON.parse(holder).pid === 2 }
    assert.instance(await lock(etcd, '/lock', { pid: 3 }, living).catch((error) => error), LockHeld)
    const dead = { ...terms, dead: (holder: string) => JSON.parse(holder).pid === 1 }
    const mine = await lock(etcd, '/lock', { pid: 3 }, dead)
    await mine.check()
    assert.match(await orphan.check().then(String, String), 'is lost')
    await orphan.release()
    await mine.release()
  })
})

test('the history keeps the newest hundred, a record of the same moment in place of the first', async () => {
  await cluster(async ({ store, members }) => {
    const flags = ['--insecure', `--etcd-endpoints=${members[0]?.url}`]
    const world = connectWorld(load('failover', flags, { PGCM_CONFIG_FILE: '/dev/null' }).config)
    try {
      const at = (n: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, n)).toISOString()
      for (const n of [...Array(50).keys()].map((i) => 102 - i)) await world.keep({ at: at(n), n })
      for (let n = 0; n < 53; n++) await world.keep({ at: at(n), n })
      await world.keep({ at: at(102), n: 'again' })
      const records = await world.history()
      assert.equal([records.length, records[0]?.n, records.at(-1)?.n], [100, 3, 'again'])
      assert.is(store.keys.size, 100)
    } finally {
      world.close()
    }
  })
})

test('a lock that was taken away is noticed at the next check', async () => {
  await cluster(async ({ etcd, store }) => {
    const mine = await lock(etcd, '/lock', { host: 'a' }, terms)
    store.delete('/postgres/lock')
    await (await lock(etcd, '/lock', { host: 'b' }, terms)).check()
    const error = await mine.check().catch((e) => e)
    assert.match(error.message, /the failover lock is lost: etcd says that it is not ours/)
    assert.ok(mine.lost.aborted)
    await mine.release()
    assert.ok(store.keys.has('/postgres/lock'), "the other's lock is still there")
  })
})

test('a check that trusts an answer of a moment ago does not ask again; an old answer does not do', async () => {
  await cluster(async ({ etcd, store }) => {
    const mine = await lock(etcd, '/lock', { host: 'a' }, terms)
    await mine.check(60_000) // asks: there is no answer yet
    store.delete('/postgres/lock')
    await mine.check(60_000)
    assert.match((await mine.check(0).catch((e) => e)).message, 'is lost')
    assert.match((await mine.check(60_000).catch((e) => e)).message, 'is lost')
    await mine.release()
  })
})

test('a lease is renewed through one member, and through the next where that hangs; until etcd knows it no more', async () => {
  await cluster(async ({ etcd, store, members }) => {
    const stop = new AbortController()
    const lost: string[] = []
    const granted = now()
    const id = await grant(etcd, 15_000)
    const terms = { granted, ttlMs: 2000, marginMs: 0, signal: stop.signal }
    const keeping = keep(etcd, id, terms, (reason) => lost.push(reason))
    const renewals = () => members.map(({ state }) => state.renewed)
    await soon('it was renewed three times', () => Math.max(...renewals()) >= 3)
    const by = renewals().indexOf(Math.max(...renewals()))
    assert.is(renewals().filter(Boolean).length, 1, 'by one member')
    Object.assign(members[by]?.state ?? {}, { mode: 'hang' })
    const others = () => renewals().filter((_, at) => at !== by)
    await soon('another member renews it', () => Math.max(...others()) >= 3)
    assert.equal(lost, [])
    store.revoke(id)
    await soon('it is lost', () => lost.length > 0)
    assert.equal(lost, ['etcd knows the lease no more'])
    stop.abort()
    await keeping
  })
})

test('a registration lasts as long as its signal, and is made again where its lease was lost', async () => {
  await cluster(async ({ etcd, store }) => {
    const stop = new AbortController()
    const registered = register(etcd, '/proxies/x', 'v', { ttlMs: 1000, retryMs: 50, signal: stop.signal })
    const found = () => store.keys.get('/postgres/proxies/x')
    const { lease } = await soon('it is there', found)
    store.revoke(lease)
    await soon('it is there again', found)
    stop.abort()
    await registered
    assert.equal([store.keys.size, store.leases.size], [0, 0])
  })
})

test('a registration that somebody deletes comes back, on the lease it had', async () => {
  await cluster(async ({ etcd, store }) => {
    const stop = new AbortController()
    const terms = { ttlMs: 1000, retryMs: 50, signal: stop.signal }
    const registered = register(etcd, '/proxies/x', 'v', terms)
    const entry = () => store.keys.get('/postgres/proxies/x')
    await soon('it is there', entry)
    const lease = entry()?.lease
    store.delete('/postgres/proxies/x')
    await soon('it is there again', entry)
    assert.equal([entry()?.value.toString(), entry()?.lease], ['v', lease])
    stop.abort()
    await registered
    assert.equal([store.keys.size, store.leases.size], [0, 0])
  })
})

test.run()
