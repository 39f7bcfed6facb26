/** How often pgcm-supervise looks at Pacemaker when nothing happens, and how soon when something does. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { now, since, sleep, until } from '../lib/wait.ts'
import { member, Store } from './etcdserver.ts'
import { address, type Supervise, supervise } from './supervised.ts'

const soon = (what: string, timeoutMs: number, probe: () => unknown) =>
  until(what, { timeoutMs, everyMs: 5 }, probe)

const epochOf = (store: Store) =>
  JSON.parse(store.keys.get('/postgres/cluster')?.value.toString() ?? '{}').epoch

async function supervised(
  body: (world: { daemon: Supervise; store: Store; home: string }) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-backstop-'))
  mkdirSync(join(dir, 'node3', 'cib-killed'), { recursive: true })
  const store = new Store()
  const etcd = await member(store)
  const daemon = supervise(dir, 3, etcd.url, [3, 3])
  try {
    await soon(
      'it publishes',
      60_000,
      () => store.keys.get('/postgres/master')?.value.toString() === address(3),
    )
    await body({ daemon, store, home: join(dir, daemon.name) })
  } finally {
    await daemon.stop()
    etcd.close()
    rmSync(dir, { recursive: true })
  }
}

/** The commands of its children at this moment. */
function childrenOf(pid: number): string[] {
  const read = (file: string) => (existsSync(file) ? readFileSync(file, 'utf8') : '')
  const tasks = readdirSync(`/proc/${pid}/task`)
  const pids = tasks.flatMap((task) => read(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean))
  return pids.map((child) => read(`/proc/${child}/cmdline`).replaceAll('\0', ' '))
}

test('once it runs, the compiler of its code is gone', async () => {
  await supervised(async ({ daemon }) => {
    await soon(
      'it has no compiler',
      5000,
      () => !childrenOf(daemon.pid).some((each) => each.includes('esbuild')),
    )
  })
})

/** How long `n` looks take, in ms, from one of them to the last. Intervals are promised; the bounds tell 1 s from 10 s. */
async function pace(daemon: Supervise, n: number): Promise<number> {
  const before = daemon.looks()
  await soon('the first look', 20_000, () => daemon.looks() > before)
  const first = daemon.looks()
  const start = now()
  await soon(`${n} more looks`, 60_000, () => daemon.looks() >= first + n)
  return since(start)
}

/** Until the looks that follow an alert are over. */
async function calm(daemon: Supervise): Promise<void> {
  let [looks, at] = [daemon.looks(), now()]
  await soon('it looks no more', 60_000, () => {
    if (daemon.looks() !== looks) [looks, at] = [daemon.looks(), now()]
    return since(at) > 600
  })
}

test('what a look that was killed has left is gone', async () => {
  await supervised(async ({ home }) => {
    await soon('it is gone', 5000, () => !existsSync(join(home, 'cib-killed')))
  })
})

test('at rest it looks every ten seconds, at once when an alert comes, and repairs a key without a look', async () => {
  await supervised(async ({ daemon, store }) => {
    const took = await pace(daemon, 1)
    assert.ok(took > 5000, `another look after ${took} ms`)
    const start = now()
    daemon.sees(3, 6)
    await soon('the news are published', 20_000, () => epochOf(store) === 6)
    assert.ok(since(start) < 8000, `${since(start)} ms`) // or it may have been the look of each ten seconds
    await calm(daemon)
    for (const spoil of [
      () => store.delete('/postgres/master'),
      () => store.put('/postgres/master', '6.6.6.6'),
    ]) {
      const looks = daemon.looks()
      spoil()
      await soon(
        'it is right',
        20_000,
        () => store.keys.get('/postgres/master')?.value.toString() === address(3),
      )
      assert.is(daemon.looks(), looks)
    }
  })
})

test('a storm of alerts causes a look now and then, not one each', async () => {
  await supervised(async ({ daemon, home }) => {
    const before = daemon.looks()
    const start = now()
    let told = 0
    while (told < 250) {
      writeFileSync(join(home, 'poke'), `${told++}`)
      await sleep(10)
    }
    const looks = daemon.looks() - before
    assert.ok(looks <= 4 + since(start) / 250, `${looks} looks at ${told} alerts`)
    await soon('it has looked now and then', 20_000, () => daemon.looks() > before + 3)
  })
})

test('where etcd says what it has not seen, it looks before it speaks, though no alert came', async () => {
  await supervised(async ({ daemon, store }) => {
    daemon.sees(2, 6)
    await soon('it publishes in the place of the other', 20_000, () => epochOf(store) === 6)
    await calm(daemon)
    const looks = daemon.looks()
    const cluster = JSON.parse(store.keys.get('/postgres/cluster')?.value.toString() ?? '')
    const newer = { ...cluster, nodes: cluster.nodes.map((node: object) => ({ ...node, score: 4242 })) }
    store.put('/postgres/cluster', JSON.stringify(newer))
    const started = now()
    await soon('it is set right', 20_000, () => !store.keys.get('/postgres/cluster')?.value.includes('4242'))
    assert.ok(daemon.looks() > looks)
    assert.ok(since(started) < 8000, `${since(started)} ms`) // or it may have been the look of each ten seconds
  })
})

test('a primary whose Pacemaker was silent for long puts no key back before it has heard from it again', async () => {
  await supervised(async ({ daemon, store, home }) => {
    rmSync(join(home, 'cib'))
    writeFileSync(join(home, 'poke'), '\n')
    await soon('it cannot look', 20_000, () => daemon.log().some(({ event }) => event === 'pacemaker.read'))
    await daemon.ages()
    const told: string[] = []
    const put = store.put.bind(store)
    store.put = (key, value, ...rest) => {
      told.push(`${key} ${value}`)
      put(key, value, ...rest)
    }
    for (const key of ['/postgres/cluster', '/postgres/master']) store.delete(key)
    const looks = daemon.looks()
    await soon('it looks in vain, or speaks', 20_000, () => daemon.looks() > looks + 1 || told.length > 0)
    assert.equal(told, [])
    daemon.sees(1, 8)
    await soon('it tells what it sees', 20_000, () => told.includes(`/postgres/master ${address(1)}`))
    assert.not(told.includes(`/postgres/master ${address(3)}`), told.join())
  })
})

test('it looks every second where the CIB has no alerts, or where they kept something from it', async () => {
  await supervised(async ({ daemon, home, store }) => {
    const cib = join(home, 'cib')
    const whole = readFileSync(cib, 'utf8')
    writeFileSync(cib, whole.replace('/pgcm-alert"', '/another"'))
    await pace(daemon, 1)
    const unwatched = await pace(daemon, 3)
    assert.ok(unwatched > 2000 && unwatched < 20_000, `three looks in ${unwatched} ms`)
    daemon.sees(2, 6, false)
    await soon('it publishes in the place of the other', 20_000, () => epochOf(store) === 6)
    await pace(daemon, 1)
    const elsewhere = await pace(daemon, 1)
    assert.ok(
      elsewhere > 5000,
      `a promotion elsewhere is no news of ours: another look after ${elsewhere} ms`,
    )
    daemon.sees(3, 9, false)
    await pace(daemon, 1)
    const missed = await pace(daemon, 3)
    assert.ok(missed > 2000 && missed < 20_000, `three looks in ${missed} ms`)
  })
})

test.run()
