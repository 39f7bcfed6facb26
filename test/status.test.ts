import { stripVTControlCharacters as bare } from 'node:util'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { status, warnings } from '../lib/status.ts'
import type { Survey } from '../lib/survey.ts'
import { byAddress } from './failover-scene.ts'
import { fakeCluster } from './fake-cluster.ts'

async function show(spoil: (survey: Survey) => void = () => {}, flags: string[] = [], endpoints = 'by name') {
  const cluster = fakeCluster()
  const { world } = cluster
  const survey = await world.survey()
  if (endpoints === 'by address') byAddress(cluster)
  spoil(survey)
  const text: string[] = []
  const { config } = load('status', flags, { PGCM_CONFIG_FILE: '/dev/null' })
  const code = await status(
    config,
    { ...world, survey: async () => survey },
    { write: (more) => text.push(more) },
  )
  return { code, text: bare(text.join('')), wrong: warnings(survey) }
}

for (const endpoints of ['by name', 'by address'])
  test(`a healthy cluster: the table, and exit 0; endpoints ${endpoints}`, async () => {
    const { code, text } = await show(undefined, [], endpoints)
    assert.is(code, 0)
    assert.is(
      text,
      [
        'primary pg01, published 10.0.0.11, epoch 9',
        'node   role     status        data            timeline  lag  pgbouncer',
        'pg01   primary  PRI           LATEST          9         -    -> 10.0.0.11',
        'pg02   standby  HS:sync       STREAMING|SYNC  9         0 B  -> 10.0.0.11',
        'pg03   standby  HS:potential  STREAMING|SYNC  9         0 B  -> 10.0.0.11',
        'app01  app      -             -               -         -    -> 10.0.0.11',
        '',
      ].join('\n'),
    )
  })

test('--json', async () => {
  const { code, text } = await show(undefined, ['--json'])
  const { healthy, primary, nodes } = JSON.parse(text)
  assert.equal([code, healthy, primary, nodes.length], [0, true, 'pg01', 4])
})

const seen = (survey: Survey, name: string) => {
  const found = survey.seen.find(({ api }) => api.name === name)
  if (!found?.status) throw new Error(name)
  return found as typeof found & { status: NonNullable<typeof found.status> }
}
const view = (survey: Survey) => {
  const cluster = seen(survey, 'pg01').status.cluster
  if (!cluster) throw new Error('no view')
  return cluster
}

for (const [what, spoil, says] of [
  ['etcd is down', (s) => Object.assign(s, { etcdError: 'refused', published: null }), 'etcd: refused'],
  [
    'a node is silent',
    (s) => Object.assign(seen(s, 'pg03'), { status: undefined, error: 'gone' }),
    'pg03 does not answer: gone',
  ],
  [
    'a PgBouncer is paused',
    (s) => Object.assign(seen(s, 'app01').status.pgbouncer ?? {}, { paused: true }),
    'PgBouncer on app01 is paused',
  ],
  [
    'a PgBouncer is dead',
    (s) => Object.assign(seen(s, 'app01').status, { pgbouncer: null }),
    'PgBouncer on app01 does not answer',
  ],
  [
    'a PgBouncer points elsewhere',
    (s) => Object.assign(seen(s, 'app01').status.pgbouncer?.databases[0] ?? {}, { host: '10.0.0.13' }),
    'PgBouncer on app01 sends app to 10.0.0.13, the primary is 10.0.0.11',
  ],
  [
    'a constraint was forgotten',
    (s) =>
      view(s).constraints.push({
        id: 'cli-ban-x',
        resource: 'msPostgresql',
        node: 'pg01',
        score: '-INFINITY',
        role: null,
        expires: null,
        kind: 'cli',
      }),
    'constraint cli-ban-x binds the resource to a node',
  ],
  ['a node is down', (s) => Object.assign(view(s).nodes[2] ?? {}, { online: false }), 'pg03 is down'],
  [
    'a standby does not stream',
    (s) => seen(s, 'pg01').status.postgres?.replication.pop(),
    'pg03 does not stream',
  ],
  [
    'the lock is held',
    (s) => Object.assign(s, { lock: { command: 'deploy', pid: 7, host: 'ci', since: 'noon' } }),
    'the failover lock is held by deploy (pid 7) on ci since noon',
  ],
  ['fencing is off', (s) => Object.assign(view(s), { fencing: false }), 'fencing is off'],
  [
    'etcd is behind',
    (s) => Object.assign(s, { published: '10.0.0.12' }),
    'etcd says that the primary is at 10.0.0.12, but pg01 is at 10.0.0.11',
  ],
] as [string, (survey: Survey) => unknown, string][]) {
  test(`where ${what}, it says so and exits 1`, async () => {
    const { code, wrong, text } = await show(spoil)
    assert.is(code, 1)
    assert.ok(wrong.includes(says), `${says} is not in: ${wrong.join('; ')}`)
    assert.match(text, `! ${says}`)
  })
}

test('where nobody answers at all, it still says what it knows', async () => {
  const { code, text } = await show((s) => {
    for (const each of s.seen) Object.assign(each, { status: undefined, error: 'no answer' })
    Object.assign(s, { etcdError: 'down', published: null })
  })
  assert.is(code, 1)
  assert.match(text, 'no primary, published nowhere')
  assert.match(text, 'pg02 does not answer: no answer')
})

test.run()
