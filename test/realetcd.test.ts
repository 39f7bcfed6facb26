/** What etcd may do to us: published state never goes back (P5), and etcd does not matter for safety. On real members. */

import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { connect, type Etcd, type Value } from '../lib/etcd.ts'
import { followKeys } from '../lib/etcdfollow.ts'
import { register } from '../lib/etcdlease.ts'
import { log } from '../lib/log.ts'
import { sh } from '../lib/sh.ts'
import type { Tls } from '../lib/tls.ts'
import { sleep, until } from '../lib/wait.ts'
import { certificates } from './certificates.ts'
import { withDaemon } from './daemon.ts'
import { pooler } from './pooler.ts'
import { type Cluster, type Member, program, withEtcd } from './realetcd.ts'
import { address, type Supervise, supervise } from './supervised.ts'

const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 30_000, everyMs: 20 }, probe)
const KEY = '/postgres/master'

const clientOf = (endpoints: string, ...more: string[]): Etcd =>
  connect(
    load('supervise', [`--etcd-endpoints=${endpoints}`, ...more], { PGCM_CONFIG_FILE: '/dev/null' }).config,
  )

/** Writes a certificate for a client down, and gives the options that name it. */
const files = ({ dir }: Cluster, name: string, tls: Tls): string[] =>
  (['ca', 'cert', 'key'] as const).map((part) => {
    writeFileSync(join(dir, `${name}.${part}`), tls[part])
    return `--etcd-${part}-file=${join(dir, `${name}.${part}`)}`
  })

/** Log lines while `body` runs. */
async function logged(body: (lines: { level: string; event: string; error: string }[]) => Promise<void>) {
  const lines: { level: string; event: string; error: string }[] = []
  const write = process.stderr.write
  process.stderr.write = (text) => {
    lines.push(JSON.parse(String(text)))
    return true
  }
  log.setLevel('debug')
  try {
    await body(lines)
  } finally {
    process.stderr.write = write
  }
}

const tries = (lines: { event: string }[], event: string) =>
  lines.filter((line) => line.event === event).length

/** Follows one key with the real code, as the proxy does. */
async function following(
  { endpoints }: Pick<Cluster, 'endpoints'>,
  body: (world: {
    etcd: Etcd
    seen: (string | undefined)[]
    write: (text: string) => Promise<void>
  }) => Promise<void>,
  ...more: string[]
) {
  const etcd = clientOf(endpoints, ...more)
  const stop = new AbortController()
  const seen: (string | undefined)[] = []
  const settings = { pollMs: 1000, retryMs: 1000, signal: stop.signal }
  const running = followKeys(
    etcd,
    ['/master'],
    settings,
    (values) => void seen.push(values['/master']?.value),
  )
  const write = async (text: string) => {
    await until('it is written', { timeoutMs: 15_000 }, async () => {
      try {
        return await etcd.replace(await etcd.read(['/master']), { '/master': text })
      } catch {
        return false
      }
    })
  }
  try {
    await body({ etcd, seen, write })
  } finally {
    stop.abort()
    await running
    etcd.close()
  }
}

test('three supervises of different views: a stale one loses, and what was lost or spoilt comes back', async () => {
  await withEtcd(async ({ ctl, dir, endpoints, restore, members }) => {
    const key = async () => (await ctl(['get', KEY, '--print-value-only'])).trim()
    const cluster = async () => JSON.parse(await ctl(['get', '/postgres/cluster', '--print-value-only']))
    const all: Supervise[] = [supervise(dir, 3, endpoints, [3, 3]), supervise(dir, 2, endpoints, [3, 3])]
    const [one, two] = all as [Supervise, Supervise]
    try {
      await soon('published', async () => (await key()) === address(3))
      const stale = supervise(dir, 1, endpoints, [1, 2]) // and holds itself for the primary
      all.push(stale)
      await soon('the stale one says so', () => stale.log().some(({ event }) => event === 'publish'))

      for (const spoil of [
        ['del', KEY],
        ['put', KEY, '6.6.6.6'],
        ['del', '--prefix', '/postgres/'],
        ['put', '/postgres/cluster', '{'],
      ]) {
        await ctl(spoil)
        await soon(`right again after ${spoil.join(' ')}`, async () => (await key()) === address(3))
      }

      const snapshot = join(dir, 'snapshot')
      await ctl(['snapshot', 'save', snapshot], members[0]?.url)
      two.sees(2, 5)
      await soon('the newer epoch is published', async () => (await key()) === address(2))
      one.sees(2, 5)
      const before = tries(stale.log(), 'publish')
      await soon('the stale one has tried again', () => tries(stale.log(), 'publish') > before + 1)
      assert.equal([await key(), (await cluster()).epoch], [address(2), 5])

      await restore(snapshot)
      await soon('the newer epoch is back', async () => (await key()) === address(2))
      assert.is((await cluster()).epoch, 5)

      const errors = stale.log().filter(({ level, event }) => level === 'error' && event === 'publish')
      assert.is(errors.length, 1, 'said once')
      assert.match(errors[0]?.error ?? '', /not published: etcd has epoch 3, this node sees 2/)
      assert.not(stale.log().some(({ event }) => event === 'primary.published'))
    } finally {
      await Promise.all(all.map((each) => each.stop()))
    }
  })
})

test('a proxy goes to no older epoch than it has followed, whatever etcd says, and warns once', async () => {
  await withEtcd(async ({ ctl, dir, endpoints, restore, members }) => {
    const say = async (epoch: number, node: number, role = '') => {
      const nodes = [{ name: `pg0${node}`, address: address(node), role }]
      await ctl(['put', '/postgres/cluster', JSON.stringify({ epoch, primary: `pg0${node}`, nodes })])
      await ctl(['put', KEY, address(node)])
    }
    const ini = join(dir, 'pgbouncer.ini')
    const bouncer = await pooler(ini)
    const flags = [
      ...[`--etcd-endpoints=${endpoints}`, '--etcd-retry-interval=100ms', '--pgbouncer-socket-dir=127.0.0.1'],
      ...[`--pgbouncer-port=${bouncer.port}`, `--pgbouncer-config-file=${ini}`],
      `--pgbouncer-config-template-file=${new URL('../templates/pgbouncer.ini.ejs', import.meta.url).pathname}`,
    ]
    const pointed = (node: number) => ({ [`pgcm_pointed{address="${address(node)}"}`]: 1 })
    try {
      await say(3, 1)
      await withDaemon('proxy', flags, {}, async ({ shows, happened, events }) => {
        await shows(pointed(1))
        const snapshot = join(dir, 'snapshot')
        await ctl(['snapshot', 'save', snapshot], members[0]?.url)
        await say(5, 2)
        await shows(pointed(2))
        await restore(snapshot)
        await happened('proxy.older')
        await shows({ pgcm_published_epoch: 3, pgcm_drift: 1, ...pointed(2) })
        for (const node of [3, 1, 3]) {
          await say(4, node, 'changed')
          const news = `pgcm_published_primary{node="pg0${node}",address="${address(node)}"}`
          await shows({ [news]: 1, pgcm_drift: 1, ...pointed(2) })
        }
        await ctl(['del', '/postgres/cluster'])
        await shows({ pgcm_published_epoch: 0, pgcm_drift: 1, ...pointed(2) })
        assert.match(readFileSync(ini, 'utf8'), `host=${address(2)}`)
        await say(6, 3)
        await shows({ pgcm_drift: 0, ...pointed(3) })
        const older = events().filter(({ event }) => event === 'proxy.older')
        assert.equal(
          older.map(({ level, followed, found }) => [level, followed, found]),
          [['warn', 5, 3]],
        )
      })
      await say(4, 1)
      await withDaemon('proxy', flags, {}, async ({ shows }) => void (await shows(pointed(1))))
    } finally {
      bouncer.close()
    }
  })
})

test('compaction, a change of leader, and a member that hangs do not keep a change from being seen', async () => {
  await withEtcd(async (cluster) => {
    await following(cluster, async ({ etcd, seen, write }) => {
      for (let i = 0; i < 20; i++) await write(`early ${i}`)
      await soon('seen', () => seen.at(-1) === 'early 19')
      const { revision } = (await etcd.get('/master')) ?? { revision: '1' }
      await cluster.ctl(['compact', revision, '--physical'])
      await write('after the compaction')
      await soon('seen', () => seen.at(-1) === 'after the compaction')

      const old = await cluster.leader()
      const other = cluster.members.find((each) => each !== old)
      const list: { members: { name: string; ID: number }[] } = JSON.parse(
        (await cluster.ctl(['member', 'list', '--write-out=json'])).replace(/"ID":(\d+)/g, '"ID":"$1"'),
      )
      const id = BigInt(list.members.find(({ name }) => name === other?.name)?.ID ?? 0).toString(16)
      await cluster.ctl(['move-leader', id], old.url)
      await write('after the change of leader')
      await soon('seen', () => seen.at(-1) === 'after the change of leader')

      for (const which of ['a follower', 'the leader']) {
        const leader = await cluster.leader()
        const victim = which === 'the leader' ? leader : cluster.members.find((each) => each !== leader)
        victim?.signal('SIGSTOP')
        await write(`while ${which} hangs`)
        await soon('seen', () => seen.at(-1) === `while ${which} hangs`)
        victim?.signal('SIGCONT')
        await cluster.up()
      }
    })
  })
})

test('while all members are gone that is said once; what is new is seen on their return', async () => {
  await withEtcd(async (cluster) => {
    await logged(async (lines) => {
      await following(cluster, async ({ seen, write }) => {
        await write('before')
        await soon('seen', () => seen.at(-1) === 'before')
        await Promise.all(cluster.members.map((each) => each.kill()))
        await soon('it has tried again and again', () => tries(lines, 'etcd.read') > 3)
        for (const each of cluster.members) each.start()
        await cluster.up()
        await cluster.ctl(['put', KEY, 'after'])
        await soon('seen', () => seen.at(-1) === 'after')
        assert.equal(seen, [undefined, 'before', 'after'])
        const said = (level: string) => lines.filter((line) => line.level === level).map(({ event }) => event)
        assert.equal([...new Set(said('error'))].length, said('error').length, said('error').join())
        assert.ok(said('info').includes('etcd.read.cleared'))
      })
    })
  })
})

test('with TLS our certificate is accepted, and one of another CA is refused, which is said once', async () => {
  const { node } = await certificates('node')
  const { outsider } = await certificates('outsider')
  assert.ok(node && outsider)
  await withEtcd(async (cluster) => {
    await following(
      cluster,
      async ({ seen, write }) => {
        await write('by certificate')
        await soon('seen', () => seen.at(-1) === 'by certificate')
      },
      ...files(cluster, 'ours', node),
    )
    await logged(async (lines) => {
      await following(
        cluster,
        async ({ etcd, seen }) => {
          await soon('it has tried again and again', () => tries(lines, 'etcd.read') > 3)
          await etcd.read(['/master']).then(
            () => assert.unreachable('it was let in'),
            (error) => assert.match(error.message, /^etcd does not answer: 127\.0\.0\.1:\d+: /),
          )
          assert.equal(seen, [])
          const errors = lines.filter(({ level }) => level === 'error').map(({ event }) => event)
          assert.equal(errors.sort(), ['etcd.read', 'etcd.watch'])
        },
        ...files(cluster, 'theirs', { ...outsider, ca: node.ca }),
      )
    })
  }, node)
})

test('a watch brings the values: nobody asks again, and none is lost where many change', async () => {
  await withEtcd(async (cluster) => {
    const etcd = clientOf(cluster.endpoints)
    const stop = new AbortController()
    const seen: Record<string, Value | null>[] = []
    const settings = { pollMs: 60_000, retryMs: 100, signal: stop.signal }
    const following = followKeys(etcd, ['/master', '/cluster'], settings, (values) => void seen.push(values))
    const told = () => [seen.at(-1)?.['/master']?.value, seen.at(-1)?.['/cluster']?.value]
    try {
      await soon('it watches', () => etcd.seen.watching)
      const marked = async () => {
        const at = etcd.seen.readAt
        await sleep(100)
        return at === etcd.seen.readAt
      }
      await soon('it has read what there is', marked)
      const { readAt } = etcd.seen
      for (let i = 1; i <= 50; i++)
        await etcd.replace({}, { '/master': `10.0.0.${i}`, '/cluster': `${i}`, '/lock': 'x' })
      await soon('it has seen the last', () => String(told()) === '10.0.0.50,50')
      const whole = seen.filter((each) => each['/master']?.value === `10.0.0.${each['/cluster']?.value}`)
      assert.ok(whole.length > 10, 'most come with both keys of their transaction')
      await cluster.ctl(['del', KEY])
      await soon('it is gone', () => String(told()) === ',50')
      assert.is(seen.at(-1)?.['/master'], null)
      assert.is(etcd.seen.readAt, readAt)
    } finally {
      stop.abort()
      await following
      etcd.close()
    }
  })
})

test('a name may do in etcd what Ansible gave it, and no name less than any other', async () => {
  const names = ['root', 'pg01', 'app01', 'billing', 'stranger']
  const made = await certificates(...names)
  const users = fileURLToPath(new URL('../ansible/roles/etcd/files/users', import.meta.url))
  await withEtcd(async (cluster) => {
    const file = (name: string) => join(cluster.dir, name)
    const env = {
      ...process.env,
      PATH: `${dirname(program('etcdctl'))}:${process.env.PATH}`,
      ETCDCTL_API: '3',
      ETCDCTL_ENDPOINTS: cluster.endpoints,
      ETCDCTL_CACERT: file('ca'),
      ETCDCTL_CERT: file('cert'),
      ETCDCTL_KEY: file('key'),
    }
    const give = async (...roles: string[]) =>
      (await sh([users, '/postgres/', ...roles], { env, timeoutMs: 60_000 })).stdout
    const as = (name: string) =>
      clientOf(cluster.endpoints, '--etcd-timeout=1s', ...files(cluster, name, made[name] as Tls))
    const refuses = async (what: Promise<unknown>) =>
      what.then(
        () => assert.unreachable('it was allowed'),
        (error) => assert.match(error.message, /permission denied/i),
      )
    const roles = ['pg01=pgcm', 'app01=pgcm-app', 'billing=pgcm-reader']
    const done = (await give(...roles)).trim().split('\n')
    assert.ok(done.includes('user grant-role app01 pgcm-app'))
    assert.is(done.at(-1), 'auth enable')
    assert.is(await give(...roles), '')
    const [node, app, reader, stranger] = names.slice(1).map(as) as [Etcd, Etcd, Etcd, Etcd]
    const stop = new AbortController()
    try {
      assert.ok(await node.replace({ '/master': null }, { '/master': '10.0.0.1', '/lock': 'x' }))
      for (const each of [app, reader]) {
        const [seen] = [await each.get('/master')]
        assert.is(seen?.value, '10.0.0.1')
        await refuses(each.replace({ '/master': seen }, { '/master': '6.6.6.6' }))
      }
      const lease = { ttlMs: 5000, retryMs: 100, signal: stop.signal }
      const registering = register(app, '/proxies/app01', 'here', lease)
      await soon('app01 is registered', async () => (await reader.list('/proxies/')).has('app01'))
      stop.abort()
      await registering
      assert.is((await reader.list('/proxies/')).size, 0)
      assert.ok(await app.replace({}, { '/history/now': '{}', '/lock': 'y' }))
      for (const key of ['/proxies/billing', '/lock', '/history/now'])
        await refuses(reader.replace({}, { [key]: 'x' }))
      await refuses(stranger.get('/master'))
      await refuses(node.ask((client) => client.kv.range({ key: Buffer.from('/other') })))
      // A machine that was an app node and is a Postgres node now.
      const changes = await give('pg01=pgcm', 'app01=pgcm', 'billing=pgcm-reader')
      assert.equal(changes.trim().split('\n').sort(), [
        'user grant-role app01 pgcm',
        'user revoke-role app01 pgcm-app',
      ])
      assert.ok(await app.replace({}, { '/master': '10.0.0.2' }))
    } finally {
      for (const each of [node, app, reader, stranger]) each.close()
    }
  }, made.root)
})

test('a member that lost its data is taken back: the others forget it and expect it anew', async () => {
  const script = fileURLToPath(new URL('../ansible/roles/etcd/files/join', import.meta.url))
  await withEtcd(async ({ members, dir, ctl }) => {
    const [m0, m1, m2] = members as [Member, Member, Member]
    const env = {
      ...process.env,
      PATH: `${dirname(program('etcdctl'))}:${process.env.PATH}`,
      ETCDCTL_API: '3',
      ETCDCTL_ENDPOINTS: `${m0.url},${m1.url}`,
    }
    const join = async () =>
      (await sh([script, 'm2', m2.peer], { env, timeoutMs: 20_000 })).stdout.trim().split('\n')
    await ctl(['put', KEY, '10.0.0.1'])
    await m2.kill()
    rmSync(`${dir}/m2`, { recursive: true })
    // What the attempt of a person leaves behind: a directory, and no data.
    m2.start()
    await soon('it is refused', () => m2.ended())
    assert.not(existsSync(`${dir}/m2/member/wal`))
    assert.equal(await join(), ['member remove m2', 'member add m2', 'existing'])
    assert.equal(await join(), ['existing'])
    m2.start('--initial-cluster-state=existing')
    const serves = () => ctl(['get', KEY], m2.url).catch(() => '')
    await soon('m2 serves again', async () => (await serves()).includes('10.0.0.1'))
    assert.ok(existsSync(`${dir}/m2/member/wal`))
    for (const each of [m1, m2]) await each.kill()
    assert.equal(await join(), ['new'])
  })
})

test.run()
