// deadline: 700 s
/** What etcd says never goes back, comes back when somebody destroys it, and is not needed for a new primary. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../../lib/config.ts'
import { connect } from '../../lib/etcd.ts'
import { until } from '../../lib/wait.ts'
import { bouncer, etcd, healthy, pointsAt, primary, primaryWithin, published, standby } from './cluster.ts'
import { address, bouncers, failing, inside, killPostmaster, nodes, psql, state } from './machines.ts'
import { failover, followed, moved, rejoin } from './moves.ts'
import { note, scenario, underLoad } from './scenario.ts'

const KEY = '/postgres/master'
const CLUSTER = '/postgres/cluster'
const LAGGARDS = '/postgres/laggards'
const PROMISED_MS = 1_000

/** How long a key took to say the same again but for the time, in ms: at most what is promised, and the one question that notices. */
async function backWithin(destroy: () => Promise<unknown>, key = KEY): Promise<number> {
  const says = async () => (await etcd('get', '--print-value-only', key)).replace(/"updatedAt":"[^"]*"/, '')
  const asked = performance.now()
  const wanted = await says()
  const questionMs = performance.now() - asked
  assert.is.not(wanted, '')
  await destroy()
  const start = performance.now()
  const timeoutMs = Math.round(PROMISED_MS + questionMs)
  await until(`${key} is back`, { timeoutMs, everyMs: 5 }, async () => (await says()) === wanted)
  return Math.round(performance.now() - start)
}

/** The values that a key has had since a revision of etcd, oldest first. */
async function publishedSince(revision: number, key = KEY): Promise<string[]> {
  const values: string[] = []
  for (let before = 0; ; ) {
    const { kvs = [] } = JSON.parse(await etcd('get', key, '--write-out=json', `--rev=${before}`))
    if (!(kvs[0]?.mod_revision > revision)) return values
    values.unshift(Buffer.from(kvs[0].value, 'base64').toString())
    before = kvs[0].mod_revision - 1
  }
}

const revision = async (): Promise<number> =>
  JSON.parse(await etcd('get', KEY, '--write-out=json')).header.revision

scenario('the published primary is deleted: it is back within 1 s, and no client notices', 40, async () => {
  const report = await underLoad(async (load) => {
    const tookMs = await backWithin(() => etcd('del', KEY))
    for (const path of bouncers) assert.ok(await load.commitAfter(2_000, load.now(), path))
    note(`key deleted: back after ${tookMs} ms`)
  })
  assert.equal(report.errorKinds, {})
})

scenario(
  'the published primary is overwritten: it is back within 1 s, and so are the PgBouncers',
  40,
  async () => {
    const wanted = await published()
    const wrong = address(await standby('HS:potential'))
    await underLoad(async (load) => {
      const tookMs = await backWithin(() => etcd('put', KEY, wrong))
      const since = load.now()
      for (const machine of bouncers) {
        await until(
          `the PgBouncer of ${machine} points at the primary`,
          { timeoutMs: 2_000 },
          async () => (await pointsAt(machine)) === wanted,
        )
        assert.ok(await load.commitAfter(2_000, since, machine), `commits through ${machine}`)
      }
      note(
        `key overwritten: back after ${tookMs} ms, all PgBouncers ${Math.round(load.now() - since)} ms later`,
      )
    })
    await healthy(5_000)
  },
)

scenario(
  'the whole view is deleted, spoilt or told otherwise: it is back within 1 s, and no client notices',
  60,
  async () => {
    const { epoch, primary: name, last } = JSON.parse(await etcd('get', '--print-value-only', CLUSTER))
    assert.is(name, await primary())
    const put = (value: unknown) => () =>
      etcd('put', CLUSTER, typeof value === 'string' ? value : JSON.stringify(value))
    const report = await underLoad(async (load) => {
      const deleted = await backWithin(() => etcd('del', CLUSTER), CLUSTER)
      const spoilt = await backWithin(put('{"epoch":'), CLUSTER)
      const older = await backWithin(
        put({ epoch: epoch - 1, primary: null, last: 'pg09', nodes: [] }),
        CLUSTER,
      )
      const empty = await backWithin(put({ epoch, primary: null, last, nodes: [] }), CLUSTER)
      for (const path of bouncers) assert.ok(await load.commitAfter(2_000, load.now(), path))
      note(
        `view deleted: back after ${deleted} ms; spoilt: ${spoilt} ms; older: ${older} ms; empty: ${empty} ms`,
      )
    })
    assert.equal(report.errorKinds, {})
    assert.is(await published(), address(name))
    await healthy(5_000)
  },
)

scenario(
  'a member of etcd hangs: keys come back within 1 s, and the primary moves without an error',
  120,
  async () => {
    const hung = nodes.at(-1) as string // the tests ask the first one
    const signal = (name: string) => inside(hung, ['systemctl', 'kill', '-s', name, 'etcd'])
    const report = await underLoad(async (load) => {
      const [old, to] = [(await primary()) as string, await standby('HS:sync')]
      await signal('STOP')
      try {
        // It may have been the leader.
        const writes = () => etcd('put', '/postgres/test', 'x').then(Boolean, () => false)
        await until('etcd takes writes', { timeoutMs: 20_000, everyMs: 100 }, writes)
        const tookMs = await backWithin(() => etcd('del', KEY))
        const since = load.now()
        await failover()
        await moved(to)
        for (const path of bouncers)
          assert.ok(await load.commitAfter(2_000, load.now(), path), `commits through ${path}`)
        const gapMs = Math.round(load.figures(since).longestGapMs)
        note(`etcd hangs on ${hung}: key deleted, back after ${tookMs} ms; ${old} -> ${to}, gap ${gapMs} ms`)
      } finally {
        await signal('CONT')
        await etcd('del', '/postgres/test')
      }
      await rejoin(old)
    })
    assert.equal(report.errorKinds, {})
    await healthy(30_000)
  },
)

scenario('the certificate of an app node reads who is primary, and cannot say it', 20, async () => {
  const secrets = `${state}/inventory/secrets`
  const files = [`--etcd-ca-file=${secrets}/ca.crt`].concat(
    ['cert', 'key'].map((part) => `--etcd-${part}-file=${secrets}/app01.${part === 'cert' ? 'crt' : 'key'}`),
  )
  const endpoints = `--etcd-endpoints=${nodes.map((node) => `https://${address(node)}:2379`).join()}`
  const app = connect(load('proxy', [endpoints, ...files], { PGCM_CONFIG_FILE: '/dev/null' }).config)
  try {
    const seen = await app.get('/master')
    assert.is(seen?.value, await published())
    await app.replace({ '/master': seen }, { '/master': '192.0.2.1' }).then(
      () => assert.unreachable('it was allowed'),
      (error) => assert.match(error.message, /permission denied/i),
    )
  } finally {
    app.close()
  }
  const all = ['/usr/local/sbin/etcdctl-root', 'endpoint', 'health', '--cluster']
  const { stdout, stderr } = await inside(nodes[1] as string, all)
  for (const node of nodes) assert.match(stdout + stderr, `https://${node}:2379 is healthy`)
})

/** A metric of a node's pgcm-supervise; NaN where it has no such. */
async function metric(node: string, name: string): Promise<number> {
  const ask = "fetch('http://127.0.0.1:7432/metrics').then(async (page) => console.log(await page.text()))"
  const { stdout } = await inside(node, ['node', '-e', ask])
  const line = stdout.split('\n').find((line) => line.startsWith(`${name} `))
  return Number(line?.split(' ').at(-1))
}

scenario(
  'a standby stops: every node knows within 5 s, and none puts an older view over it',
  60,
  async () => {
    const [sync, stopped] = [await standby('HS:sync'), await standby('HS:potential')]
    const start = await revision()
    const mode = (words: string) => inside(sync, `crm_standby --node ${stopped} ${words}`)
    const states = async () =>
      (await publishedSince(start, CLUSTER)).map((value) => {
        const { role, status, dataStatus } = JSON.parse(value).nodes.find(
          (node: { name: string }) => node.name === stopped,
        )
        return [role, status, dataStatus].join(' ')
      })
    await mode('--update on')
    try {
      const published = async () => (await states()).at(-1)?.startsWith('Stopped STOP')
      await until('it is published', { timeoutMs: 20_000, everyMs: 100 }, published)
      for (const node of nodes)
        await until(`${node} knows`, { timeoutMs: 5_000, everyMs: 100 }, async () => {
          return (await metric(node, 'pgcm_standbys{state="potential"}')) === 0
        })
      const changes = (await states()).filter((state, i, all) => state !== all[i - 1])
      assert.equal(changes, [...new Set(changes)], 'one came back')
    } finally {
      await mode('--delete')
    }
    await healthy(30_000)
  },
)

scenario(
  'a pgcm-supervise that slept through a failover never publishes the old primary again',
  90,
  async () => {
    const old = (await primary()) as string
    const start = await revision()
    const signal = (name: string) => inside(old, ['systemctl', 'kill', '-s', name, 'pgcm-supervise'])
    let name: string
    await signal('STOP')
    try {
      await killPostmaster(old)
      name = await primaryWithin(20_000, old)
      await followed(name, 10_000)
    } finally {
      await signal('CONT')
    }
    await rejoin(old)
    await healthy(30_000)
    await until(`the pgcm-supervise of ${old} has seen ${name}`, { timeoutMs: 10_000 }, async () => {
      const { stdout } = await inside(old, 'journalctl -q -o cat -u pgcm-supervise -n 200')
      const seen = stdout.match(/"event":"primary.seen","node":"\w+"/g)?.at(-1)
      return seen?.includes(`"${name}"`)
    })
    assert.equal(await publishedSince(start), [address(name)])
  },
)

scenario(
  'etcd is down: a crashed primary is replaced all the same, and clients follow when etcd is back',
  120,
  async () => {
    const old = (await primary()) as string
    const systemctl = (verb: string) =>
      Promise.all(nodes.map((node) => inside(node, ['systemctl', verb, 'etcd'], { timeoutMs: 60_000 })))
    await underLoad(async (load) => {
      let name: string
      await systemctl('stop')
      try {
        const { code, stdout, stderr } = await failing(failover())
        assert.is(code, 2, `${stdout}${stderr}`)
        assert.match(stdout, /FAIL +etcd +does not answer/)
        assert.is(await primary(), old)
        await killPostmaster(old)
        name = await primaryWithin(20_000, old)
        await psql(name, 'create table if not exists without_etcd (); drop table without_etcd', 'app')
      } finally {
        await systemctl('start')
      }
      const since = load.now()
      await followed(name, 10_000)
      for (const path of bouncers)
        assert.ok(await load.commitAfter(10_000, since, path), `commits through ${path}`)
      note(`etcd down: ${old} -> ${name}, clients ${Math.round(load.now() - since)} ms after etcd is back`)
    })
    await rejoin(old)
    await healthy(30_000)
  },
)

/** Gives app01 a database for reading, as its template offers it, while `body` runs. */
async function withReadPool(body: () => Promise<void>): Promise<void> {
  const file = '/etc/pgcm/pgbouncer.ini.ejs'
  const hear = 'systemctl kill -s HUP pgcm-proxy'
  await inside(
    'app01',
    `cp -p ${file} ${file}.kept && sed -i 's/^; app_ro = /app_ro = /; s/%%/%/g' ${file} && ${hear}`,
  )
  try {
    await body()
  } finally {
    await inside('app01', `mv ${file}.kept ${file} && ${hear}`)
  }
}

const readers = async () => {
  const rows = await bouncer('app01', 'SHOW DATABASES')
  return (
    rows
      .find((row) => row.name === 'app_ro')
      ?.host?.split(',')
      .sort() ?? []
  )
}

/** Seconds, by the metric of the primary. */
const lagOf = async (standby: string): Promise<number> =>
  metric((await primary()) as string, `pgcm_standby_lag_seconds{node="${standby}"}`)

const readersAre = (what: string, timeoutMs: number, ...wanted: string[]) =>
  until(what, { timeoutMs, everyMs: 100 }, async () => String(await readers()) === String(wanted.sort()))

scenario(
  'a standby that replays too late is no longer for reading, and is again once it has caught up',
  90,
  async () => {
    const [sync, late] = [await standby('HS:sync'), await standby('HS:potential')]
    const report = await underLoad(async () => {
      await withReadPool(async () => {
        await readersAre('both standbys are for reading', 10_000, address(sync), address(late))
        // One that has just come back may be late until the next measurement.
        await until('it has caught up', { timeoutMs: 20_000 }, async () => (await lagOf(late)) < 1)
        await readersAre('both standbys are still', 10_000, address(sync), address(late))
        await psql(late, 'select pg_wal_replay_pause()')
        try {
          await readersAre(`${late} is not`, 30_000, address(sync))
          await until('the metric says so too', { timeoutMs: 5000 }, async () => (await lagOf(late)) > 10)
          const deletedMs = await backWithin(() => etcd('del', LAGGARDS), LAGGARDS)
          const spoiltMs = await backWithin(() => etcd('put', LAGGARDS, JSON.stringify([sync])), LAGGARDS)
          note(`laggards deleted: back after ${deletedMs} ms; overwritten: after ${spoiltMs} ms`)
        } finally {
          await psql(late, 'select pg_wal_replay_resume()')
        }
        await readersAre(`${late} is again`, 20_000, address(sync), address(late))
      })
    })
    assert.equal(report.errorKinds, {})
    await healthy(10_000)
  },
)

test.run()
