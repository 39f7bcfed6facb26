import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { check } from '../lib/checks.ts'
import type { Survey } from '../lib/survey.ts'
import { chooseTarget } from '../lib/survey.ts'
import { fakeCluster } from './fake-cluster.ts'

const plan = { pauseExpiryMs: 10_000, maxLagBytes: 1000 }

/** The verdicts that complain of a healthy cluster after it was spoilt. */
async function complaints(spoil: (survey: Survey) => unknown, more: Partial<typeof plan> = {}) {
  const survey = await fakeCluster().world.survey()
  const target = chooseTarget(survey, '')
  spoil(survey)
  return check(survey, { ...plan, ...more, target }).filter(({ level }) => level !== 'ok')
}

const status = (survey: Survey, name: string) => {
  const found = survey.seen.find(({ api }) => api.name === name)?.status
  if (!found) throw new Error(name)
  return found
}
const silence = (survey: Survey, name: string) => {
  const index = survey.seen.findIndex(({ api }) => api.name === name)
  const { api, kind } = survey.seen[index] as Survey['seen'][number]
  survey.seen[index] = { api, kind, error: 'no answer' }
}
const cluster = (survey: Survey) =>
  status(survey, 'pg01').cluster as NonNullable<ReturnType<typeof status>['cluster']>
const node = (survey: Survey, name: string) => cluster(survey).nodes.find((each) => each.name === name) ?? {}
const postgres = (survey: Survey, name: string) =>
  status(survey, name).postgres as NonNullable<ReturnType<typeof status>['postgres']>
const pooler = (survey: Survey) =>
  status(survey, 'app01').pgbouncer as NonNullable<ReturnType<typeof status>['pgbouncer']>
const failure = { resource: 'Postgresql', operation: 'monitor', status: 'x', reason: 'hung', code: 1, at: '' }
const constraint = { resource: 'msPostgresql', node: 'pg02', score: 'INFINITY', role: null, expires: null }
const fencing = { target: 'pg03', action: 'reboot', at: 'noon', reason: 'No route to host' }
type Row = [string, (survey: Survey) => unknown, string]
const old = { database: 'app', user: 'jane', client: '10.0.0.5', ageMs: 9000, state: 'idle in transaction' }

test('a healthy cluster: nothing to complain of, and each check says what it found', async () => {
  assert.equal(await complaints(() => {}), [])
  const survey = await fakeCluster().world.survey()
  const all = check(survey, { ...plan, target: chooseTarget(survey, '') })
  assert.ok(all.every(({ text }) => text.length > 1))
  assert.is(new Set(all.map((verdict) => verdict.check)).size, all.length)
})

for (const [what, spoil, wanted] of [
  ['an app node is silent', (s) => silence(s, 'app01'), 'fail api: app01 does not answer: no answer'],
  ['a node is silent, but online', (s) => silence(s, 'pg03'), 'fail api: pg03 does not answer: no answer'],
  [
    'a node that is not needed is down',
    (s) => {
      silence(s, 'pg03')
      Object.assign(node(s, 'pg03'), { online: false })
    },
    'warn api: pg03 is down, and not needed',
  ],
  ...['10.0.0.13', 'pg03.example.com'].map(
    (host): Row => [
      `a node that is not needed is down, and its endpoint is ${host}`,
      (s) => {
        silence(s, 'pg03')
        Object.assign(node(s, 'pg03'), { online: false })
        Object.assign(s.seen[2]?.api ?? {}, { name: host })
      },
      'warn api: pg03 is down, and not needed',
    ],
  ),
  ['etcd is down', (s) => Object.assign(s, { etcdError: 'refused' }), 'fail etcd: does not answer: refused'],
  [
    'fencing is off',
    (s) => Object.assign(cluster(s), { fencing: false }),
    'warn fencing: is off: a node that hangs cannot be stopped',
  ],
  [
    'no fence device is started',
    (s) => Object.assign(cluster(s), { fenceDevices: [], idleFenceDevices: ['fence-pg01'] }),
    'fail fencing: no device is started: a node that hangs cannot be stopped',
  ],
  [
    'one fence device is not started',
    (s) => Object.assign(cluster(s), { idleFenceDevices: ['fence-pg02'] }),
    'warn fencing: fence-pg02 is not started',
  ],
  [
    'a node could not be fenced',
    (s) => Object.assign(status(s, 'pg02'), { failedFencings: [fencing] }),
    'warn fencing: reboot of pg03 failed at noon: No route to host',
  ],
  [
    'the clone is unmanaged',
    (s) => Object.assign(cluster(s), { managed: false }),
    'fail maintenance: PostgreSQL is unmanaged',
  ],
  [
    'the target answers, but is not online',
    (s) => Object.assign(node(s, 'pg02'), { online: false }),
    'fail nodes: pg02 is not online',
  ],
  [
    'another node answers, but is not online',
    (s) => Object.assign(node(s, 'pg03'), { online: false }),
    'warn nodes: pg03 is not online',
  ],
  [
    'a node is to be fenced',
    (s) => Object.assign(node(s, 'pg03'), { unclean: true }),
    'warn nodes: pg03 is unclean: Pacemaker wants it fenced',
  ],
  [
    'the target is leaving',
    (s) => Object.assign(node(s, 'pg02'), { shutdown: true }),
    'fail nodes: pg02 is leaving',
  ],
  [
    'something is being done to the target',
    (s) => Object.assign(node(s, 'pg02'), { underway: 'Promoting' }),
    'fail nodes: pg02 is promoting',
  ],
  [
    'PostgreSQL is blocked on the target',
    (s) => Object.assign(node(s, 'pg02'), { blocked: true }),
    'fail nodes: pg02: Pacemaker can do nothing with PostgreSQL there',
  ],
  [
    'a login is under way',
    (s) => Object.assign(pooler(s), { logins: 1 }),
    'warn logins: 1 server login is under way on app01',
  ],
  [
    'a user is pooled by session',
    (s) => Object.assign(pooler(s), { sessionPools: ['jane@app'] }),
    'fail pooling: jane@app on app01 is pooled by session',
  ],
  [
    'a PgBouncer is paused by a failover that was killed',
    (s) => {
      Object.assign(pooler(s), { paused: true })
      Object.assign(status(s, 'app01'), { pause: { owner: 'pgcm-failover ci 7', expiresAt: 'noon' } })
    },
    'warn poolers: the one on app01 is paused by pgcm-failover ci 7 until noon',
  ],
  [
    'the cluster is in maintenance',
    (s) => Object.assign(cluster(s), { maintenance: true }),
    'fail maintenance: the cluster is in maintenance mode',
  ],
  [
    'the target is in standby mode',
    (s) => Object.assign(node(s, 'pg02'), { standby: true }),
    'fail maintenance: pg02 is in standby mode',
  ],
  [
    'another node is in standby mode',
    (s) => Object.assign(node(s, 'pg03'), { standby: true }),
    'warn maintenance: pg03 is in standby mode',
  ],
  [
    'a cli-ban is there',
    (s) => cluster(s).constraints.push({ ...constraint, id: 'cli-ban-x', kind: 'cli' }),
    'fail constraints: cli-ban-x binds the resource to a node',
  ],
  [
    'a constraint of ours is there',
    (s) => cluster(s).constraints.push({ ...constraint, id: 'pgcm-move-x', kind: 'ours' }),
    'warn constraints: pgcm-move-x was left by a failover that was killed, and is removed first',
  ],
  [
    'an action failed on the target',
    (s) => cluster(s).failures.push({ ...failure, node: 'pg02' }),
    'fail failures: monitor failed on pg02: hung',
  ],
  [
    'an action failed elsewhere',
    (s) => cluster(s).failures.push({ ...failure, node: 'pg03' }),
    'warn failures: monitor failed on pg03: hung',
  ],
  [
    'two nodes write',
    (s) => Object.assign(postgres(s, 'pg03'), { role: 'primary' }),
    'fail primary: pg03 writes, too',
  ],
  [
    'etcd names another',
    (s) => Object.assign(s, { published: '10.0.0.13' }),
    'fail primary: pg01 is at 10.0.0.11, but etcd says 10.0.0.13',
  ],
  [
    'the target is asynchronous',
    (s) => Object.assign(postgres(s, 'pg01').replication[0] ?? {}, { syncState: 'async' }),
    'fail target: pg02 is asynchronous',
  ],
  [
    'the target must not be promoted',
    (s) => Object.assign(node(s, 'pg02'), { score: -1_000_000 }),
    'fail target: pg02 must not be promoted: score -1000000',
  ],
  [
    'there is no spare',
    (s) => postgres(s, 'pg01').replication.pop(),
    "fail spare: the new primary's first commit waits for 1 standby, 0 would be there",
  ],
  [
    'the target is behind',
    (s) => Object.assign(postgres(s, 'pg01').replication[0] ?? {}, { lagBytes: 5000 }),
    'fail lag: pg02 is 5000 bytes behind, more than 1000',
  ],
  [
    'the target replays slowly',
    (s) => Object.assign(postgres(s, 'pg02'), { replayLagBytes: 7000 }),
    'fail lag: pg02 is 7000 bytes behind, more than 1000',
  ],
  [
    'replay is paused',
    (s) => Object.assign(postgres(s, 'pg02'), { replayPaused: true }),
    'fail lag: replay is paused on pg02',
  ],
  [
    'the disk is full',
    (s) => Object.assign(postgres(s, 'pg02'), { diskFree: 2 ** 20 }),
    'fail disk: 1 MiB free on pg02',
  ],
  [
    'the disk fills',
    (s) => Object.assign(postgres(s, 'pg02'), { diskFree: 2 ** 29 }),
    'warn disk: 512 MiB free on pg02',
  ],
  [
    'a transaction is prepared',
    (s) => postgres(s, 'pg01').prepared.push({ gid: 'g', database: 'app', owner: 'jane', ageMs: 1000 }),
    'fail prepared: g of jane in app, 1 s old',
  ],
  [
    'a transaction is old',
    (s) => postgres(s, 'pg01').longest.push(old),
    'warn transactions: jane@app from 10.0.0.5: open for 9 s, idle in transaction',
  ],
  [
    'a PgBouncer is dead',
    (s) => Object.assign(status(s, 'app01'), { pgbouncer: null, errors: ['refused'] }),
    'fail poolers: the one on app01 does not answer: refused',
  ],
  [
    'a PgBouncer is paused',
    (s) => Object.assign(pooler(s), { paused: true }),
    'fail poolers: the one on app01 is paused',
  ],
  [
    'a PgBouncer points elsewhere',
    (s) => Object.assign(pooler(s).databases[0] ?? {}, { host: '10.0.0.13' }),
    'fail poolers: the one on app01 sends app to 10.0.0.13',
  ],
  [
    'a database is pooled by session',
    (s) => Object.assign(pooler(s).databases[0] ?? {}, { poolMode: 'session' }),
    'fail pooling: app on app01 is pooled by session',
  ],
  [
    'clients would be cut off',
    (s) => Object.assign(pooler(s), { queryWaitTimeoutMs: 5000 }),
    'fail timeouts: query_wait_timeout on app01, 5 s, is not above the pause-expiry, 10 s',
  ],
  [
    'a failed login would last',
    (s) => Object.assign(pooler(s), { serverLoginRetryMs: 15_000 }),
    'fail timeouts: server_login_retry on app01 is 15 s',
  ],
  [
    'a clock is off',
    (s) => Object.assign(s.seen[2] ?? {}, { skewMs: -60_000 }),
    'fail clocks: pg03 is off by -60 s',
  ],
  [
    'somebody has the lock',
    (s) => Object.assign(s, { lock: { host: 'ci', pid: 7, command: 'deploy', since: 'noon' } }),
    'fail lock: held by deploy (pid 7) on ci since noon',
  ],
] as Row[]) {
  test(`${what}: it says so, and nothing else`, async () => {
    const found = await complaints(spoil)
    assert.equal(
      found.map(({ check: name, level, text }) => `${level} ${name}: ${text}`),
      [wanted],
    )
  })
}

test('query_wait_timeout 0 is none', async () => {
  assert.equal(await complaints((s) => Object.assign(pooler(s), { queryWaitTimeoutMs: 0 })), [])
})

test('no quorum: no primary either', async () => {
  const found = await complaints((s) => {
    for (const name of ['pg01', 'pg02', 'pg03'])
      Object.assign(status(s, name).cluster ?? {}, { quorum: false })
  })
  assert.equal(
    found.map(({ check: name }) => name),
    ['quorum', 'primary', 'primary', 'target', 'spare'],
  )
})

test('no primary: everything that follows from it is said, nothing throws', async () => {
  const found = await complaints((s) => {
    silence(s, 'pg01')
    for (const name of ['pg02', 'pg03']) Object.assign(status(s, name), { cluster: null })
  })
  assert.ok(found.some(({ check: name }) => name === 'primary'))
  assert.ok(found.some(({ check: name }) => name === 'quorum'))
})

test('two nodes need no spare: with two nodes nothing is synchronous', async () => {
  const found = await complaints((s) => {
    cluster(s).nodes.pop()
    postgres(s, 'pg01').replication.pop()
  })
  assert.equal(found, [])
})

test('of several synchronous standbys (ANY k) the one that lags least is chosen', async () => {
  const survey = await fakeCluster().world.survey()
  for (const [i, row] of postgres(survey, 'pg01').replication.entries())
    Object.assign(row, { syncState: 'quorum', lagBytes: i === 0 ? 900 : 10 })
  assert.is(chooseTarget(survey, '').name, 'pg03')
})

test.run()
