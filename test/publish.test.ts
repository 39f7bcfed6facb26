import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Etcd, Value } from '../lib/etcd.ts'
import { Behind, type Cluster, Doubtful, decide, parseCluster, publish, ratchet } from '../lib/publish.ts'

const keys = { primary: '/master', cluster: '/cluster' }

function seen(epoch: number, primary: string | null): Cluster {
  const nodes = ['pg1', 'pg2', 'pg3'].map((name) => ({
    ...{
      name,
      address: `10.0.0.${name.slice(-1)}`,
      online: true,
      status: null,
      dataStatus: null,
      score: null,
    },
    role: name === primary ? 'Promoted' : 'Unpromoted',
  }))
  return { epoch, primary, last: null, nodes, updatedAt: new Date().toISOString() }
}

/** Enough of etcd: keys with revisions, and writes that compare them. */
function fakeEtcd(interfere: () => void = () => {}) {
  const store = new Map<string, Value>()
  let revision = 0
  const put = (key: string, value: string) => store.set(key, { value, revision: String(++revision) })
  const etcd = {
    read: async (names: string[]) => Object.fromEntries(names.map((name) => [name, store.get(name) ?? null])),
    replace: async (before: Record<string, Value | null>, puts: Record<string, string>) => {
      interfere()
      for (const [key, value] of Object.entries(before))
        if (store.get(key)?.revision !== value?.revision) return false
      for (const [key, value] of Object.entries(puts)) put(key, value)
      return true
    },
  } as unknown as Etcd
  const say = (epoch: number, primary: string | null) =>
    publish(etcd, keys, seen(epoch, primary)).then(
      (wrote) => (wrote ? 'written' : 'kept'),
      (error) => error.message.replace(/:.*/, ''),
    )
  return { etcd, store, put, say, address: () => store.get(keys.primary)?.value }
}

test('published state never goes back', async () => {
  const { say, address } = fakeEtcd()
  const story: [number, string | null, string, string][] = [
    [3, 'pg1', 'written', '10.0.0.1'],
    [3, 'pg1', 'kept', '10.0.0.1'],
    [3, 'pg2', 'not published', '10.0.0.1'], // an epoch has one primary
    [3, null, 'written', '10.0.0.1'], // without a primary the address stays
    [3, 'pg2', 'not published', '10.0.0.1'], // also after it was away
    [4, 'pg2', 'written', '10.0.0.2'],
    [3, 'pg1', 'not published', '10.0.0.2'],
    [3, null, 'not published', '10.0.0.2'],
    [4, 'pg2', 'kept', '10.0.0.2'],
  ]
  for (const [epoch, primary, outcome, then] of story) {
    assert.equal([await say(epoch, primary), address()], [outcome, then], `${epoch} ${primary}`)
  }
})

test('a key that was deleted or overwritten comes back', async () => {
  const { say, store, put, address } = fakeEtcd()
  await say(3, 'pg1')
  put(keys.primary, '6.6.6.6')
  assert.equal([await say(3, 'pg1'), address()], ['written', '10.0.0.1'])
  store.delete(keys.primary)
  assert.equal([await say(3, 'pg1'), address()], ['written', '10.0.0.1'])
  for (const rubbish of ['', 'null', '7', '{}', '{"epoch":"9","nodes":[]}', '{"epoch":9']) {
    put(keys.cluster, rubbish)
    assert.equal([await say(3, 'pg1'), address()], ['written', '10.0.0.1'], rubbish)
  }
  put(keys.cluster, JSON.stringify({ ...seen(3, 'pg1'), epoch: 1e300 }))
  assert.equal([await say(3, 'pg1'), address()], ['written', '10.0.0.1'], 'an epoch beyond all timelines')
  put(keys.cluster, JSON.stringify({ ...seen(3, 'pg1'), last: 7 }))
  assert.equal([await say(3, 'pg1'), address()], ['written', '10.0.0.1'], 'a primary that is a number')
})

test('what in the view is not what it should be counts as missing', () => {
  const nodes = [
    null,
    7,
    {},
    { name: 7 },
    { name: 'pg1', address: 5, online: 'true', role: {}, dataStatus: 5 },
  ]
  const value = { value: JSON.stringify({ epoch: 3, nodes }), revision: '1' }
  const nothing = { address: null, status: null, dataStatus: null, score: null }
  assert.equal(parseCluster(value), {
    ...{ epoch: 3, primary: null, last: null, updatedAt: '' },
    nodes: [{ ...nothing, name: 'pg1', online: false, role: '' }],
  })
})

test('a view that was refused a moment ago is not written into an etcd that has lost why', async () => {
  const { etcd, say, store, address } = fakeEtcd()
  await say(3, 'pg1')
  assert.is(await say(2, 'pg2'), 'not published')
  const again = () => publish(etcd, keys, seen(2, 'pg2'), null, true).catch((error) => error)
  const refusal = await again()
  assert.ok(refusal instanceof Behind && !(refusal instanceof Doubtful), 'etcd still says why')
  store.clear()
  assert.instance(await again(), Doubtful)
  assert.is(address(), undefined)
  assert.is(await say(2, 'pg2'), 'written')
})

test('of several that write at once the newest epoch stays', async () => {
  const others = [5, 4]
  const world = fakeEtcd(() => {
    const epoch = others.shift()
    if (epoch) world.put(keys.cluster, JSON.stringify({ ...seen(epoch, 'pg2'), last: 'pg2' }))
  })
  assert.is(await world.say(4, 'pg1'), 'not published')
})

test('whoever is always late gives up', async () => {
  let n = 0
  const world = fakeEtcd(() => world.put(keys.cluster, JSON.stringify(seen(1, null)) + ' '.repeat(n++)))
  assert.is(await world.say(1, 'pg1'), 'not published')
})

test('a primary without a known address does not touch the key', () => {
  const cluster = seen(3, 'pg1')
  cluster.nodes = cluster.nodes.map((node) => ({ ...node, address: null }))
  const decision = decide({ cluster: null, primary: { value: '10.0.0.9', revision: '1' } }, cluster)
  assert.is('write' in decision && decision.write.primary, null)
})

test('a follower never goes back to an older epoch, nor to none', () => {
  const admit = ratchet()
  const follows = [null, seen(3, 'pg1'), seen(3, null), seen(5, 'pg2'), seen(3, 'pg1'), null, seen(5, 'pg2')]
  assert.equal(
    follows.map((view) => admit(view).follow),
    [true, true, true, true, false, false, true],
  )
  assert.equal(admit(seen(4, 'pg1')), { follow: false, followed: 5, found: 4 })
})

test('random views: the published epoch never falls, and an epoch never has two addresses', async () => {
  const { say, store, address } = fakeEtcd()
  let state = 42
  const random = (n: number) => {
    state = (state * 1103515245 + 12345) % 2 ** 31
    return Math.floor((state / 2 ** 31) * n)
  }
  const owner = new Map<number, string>()
  let highest = 0
  for (let i = 0; i < 2000; i++) {
    await say(1 + random(30), [null, 'pg1', 'pg2', 'pg3'][random(4)] ?? null)
    const cluster: Cluster = JSON.parse(store.get(keys.cluster)?.value ?? '')
    assert.ok(cluster.epoch >= highest)
    highest = cluster.epoch
    if (!cluster.primary) continue
    assert.is(owner.get(cluster.epoch) ?? cluster.primary, cluster.primary)
    owner.set(cluster.epoch, cluster.primary)
    assert.is(address(), `10.0.0.${cluster.primary.slice(-1)}`)
  }
})

test.run()
