import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { view } from '../lib/crmmon.ts'
import { Refused } from '../lib/errors.ts'
import { log, logger } from '../lib/log.ts'
import { registry } from '../lib/metrics.ts'
import { serveMetrics } from '../lib/metricsserver.ts'
import { logSamples, pauseSamples, publishedSamples, viewSamples } from '../lib/samples.ts'
import { now } from '../lib/wait.ts'
import { values } from './daemon.ts'

log.setLevel('error')

test('a page in the text format, with the help once and labels escaped', () => {
  const metrics = registry()
  metrics.add('pgcm_reloads_total', { result: 'ok' }, 0)
  metrics.add('pgcm_reloads_total', { result: 'failed' })
  metrics.add('pgcm_reloads_total', { result: 'failed' })
  metrics.collect(() => [
    ['pgcm_quorum', 1],
    ['pgcm_pointed', 1, { address: 'a"b\\c\nd' }],
  ])
  assert.is(
    metrics.text(),
    `# HELP pgcm_quorum 1 if this node is in quorum
# TYPE pgcm_quorum gauge
pgcm_quorum 1
# HELP pgcm_pointed 1; the address that PgBouncer was last seen to point at
# TYPE pgcm_pointed gauge
pgcm_pointed{address="a\\"b\\\\c\\nd"} 1
# HELP pgcm_reloads_total Renderings with RELOAD, ok or failed
# TYPE pgcm_reloads_total counter
pgcm_reloads_total{result="ok"} 0
pgcm_reloads_total{result="failed"} 2
`,
  )
})

test('a histogram is cumulative, and ends with everything', () => {
  const metrics = registry()
  for (const seconds of [0.01, 0.05, 3, 60])
    metrics.observe('pgcm_api_call_duration_seconds', { rpc: 'pause' }, seconds)
  const seen = values(metrics.text())
  const bucket = (le: string) => seen[`pgcm_api_call_duration_seconds_bucket{rpc="pause",le="${le}"}`]
  assert.equal([bucket('0.05'), bucket('2.5'), bucket('5'), bucket('10'), bucket('+Inf')], [2, 2, 3, 3, 4])
  assert.is(seen['pgcm_api_call_duration_seconds_count{rpc="pause"}'], 4)
  assert.is(seen['pgcm_api_call_duration_seconds_sum{rpc="pause"}'], 63.06)
})

test('warnings and errors are counted by event, and a trouble says whether it lasts', () => {
  const quiet = logger({ write: () => true }, { level: 'error' })
  quiet.info('daemon.start')
  quiet.warn('pause.found')
  for (let i = 0; i < 1000; i++) quiet.trouble('etcd.read')
  quiet.trouble('publish')
  quiet.cleared('publish')
  quiet.error('api.bug')
  assert.equal(logSamples(quiet), [
    ['pgcm_log_events_total', 1, { level: 'warn', event: 'pause.found' }],
    ['pgcm_log_events_total', 1000, { level: 'error', event: 'etcd.read' }],
    ['pgcm_trouble', 1, { event: 'etcd.read' }],
    ['pgcm_log_events_total', 1, { level: 'error', event: 'publish' }],
    ['pgcm_trouble', 0, { event: 'publish' }],
    ['pgcm_log_events_total', 1, { level: 'error', event: 'api.bug' }],
  ])
})

const fixture = (name: string, kind: string) =>
  readFileSync(new URL(`./fixtures/${name}.${kind}.xml`, import.meta.url), 'utf8')
const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const seenOf = (name: string, here: string) => {
  const samples = viewSamples(view(fixture(name, 'crm_mon'), fixture(name, 'cib'), names), now() - 5000, here)
  const metrics = registry()
  metrics.collect(() => samples)
  return values(metrics.text())
}

test('a healthy cluster, as its primary and as a standby see it', () => {
  const seen = seenOf('trixie-healthy', 'pg03')
  const { pgcm_pacemaker_view_age_seconds: age, pgcm_seen_epoch: epoch, ...rest } = seen
  assert.ok(Math.abs((age ?? 0) - 5) < 1 && (epoch ?? 0) > 0)
  assert.equal(rest, {
    pgcm_quorum: 1,
    pgcm_promoted_here: 1,
    pgcm_nodes: 3,
    'pgcm_seen_primary{node="pg01"}': 0,
    'pgcm_seen_primary{node="pg02"}': 0,
    'pgcm_seen_primary{node="pg03"}': 1,
    'pgcm_standbys{state="sync"}': 1,
    'pgcm_standbys{state="potential"}': 1,
    'pgcm_standbys{state="async"}': 0,
    'pgcm_constraints{kind="cli"}': 0,
    'pgcm_constraints{kind="ours"}': 0,
  })
  assert.is(seenOf('trixie-healthy', 'pg01').pgcm_promoted_here, 0)
})

test('a cluster without a primary', () => {
  const seen = seenOf('bookworm-nobody-promoted', 'pg01')
  for (const node of ['pg01', 'pg02', 'pg03']) assert.is(seen[`pgcm_seen_primary{node="${node}"}`], 0)
  assert.is(seen.pgcm_promoted_here, 0)
})

test('before the first view there is only its age', () => {
  assert.equal(
    viewSamples(null, now(), 'pg01').map(([name]) => name),
    ['pgcm_pacemaker_view_age_seconds'],
  )
})

test('etcd names a primary only if the key is there and the cluster has one', () => {
  const value = (text: string) => ({ value: text, revision: '1' })
  const cluster = (primary: string | null) => value(JSON.stringify({ epoch: 7, primary, nodes: [] }))
  const cases = [
    [value('10.0.0.1'), cluster('pg01'), 1, 'pg01', '10.0.0.1', 7],
    [value('10.0.0.1'), cluster(null), 0, '', '10.0.0.1', 7],
    [value('10.0.0.1'), null, 1, '', '10.0.0.1', 0],
    [value('10.0.0.1'), value('rubbish'), 1, '', '10.0.0.1', 0],
    [null, cluster('pg01'), 0, 'pg01', '', 7],
    [null, null, 0, '', '', 0],
  ] as const
  for (const [primary, clusterValue, named, node, address, epoch] of cases) {
    assert.equal(publishedSamples({ primary, cluster: clusterValue }), [
      ['pgcm_published_primary', named, { node, address }],
      ['pgcm_published_epoch', epoch],
    ])
  }
})

test('a pause has a beginning and an end; one that came without them has been over since 1970', () => {
  const pause = { owner: 'a', createdAt: '2026-01-02T03:04:05.500Z', expiresAt: '2026-01-02T03:04:15.500Z' }
  const [paused, from, until] = pauseSamples({ ...pause, deadline: 1, boot: 'b' }).map(([, value]) => value)
  assert.equal([paused, from, until], [1, 1767323045.5, 1767323055.5])
  const lost = pauseSamples({ owner: '', createdAt: '', expiresAt: '', deadline: 0, boot: '' })
  assert.equal(
    [lost, pauseSamples(null)].map((samples) => samples.map(([, value]) => value)),
    [
      [1, 0, 0],
      [0, 0, 0],
    ],
  )
})

/** A server on a free port, and a raw connection to it for each text that is sent; gives what came back until it was closed. */
async function served(page: () => string, body: (send: (text: string) => Promise<string>) => Promise<void>) {
  const server = await serveMetrics('x', '127.0.0.1:0', page)
  const send = async (text: string) => {
    const socket = connect(server.port, '127.0.0.1')
    let got = ''
    socket.setEncoding('utf8').on('data', (chunk) => {
      got += chunk
    })
    socket.on('error', () => {})
    socket.write(text)
    await new Promise((resolve) => socket.on('close', resolve))
    return got
  }
  const write = process.stderr.write
  process.stderr.write = () => true
  try {
    await body(send)
  } finally {
    process.stderr.write = write
    server.close()
  }
}

const get = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
const status = (answer: string) => Number(answer.split(' ')[1])

test('one GET of /metrics is answered, and the connection ends', async () => {
  await served(
    () => 'pgcm_quorum 1\n',
    async (send) => {
      const answer = await send(get('/metrics'))
      assert.match(
        answer,
        /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/plain; version=0\.0\.4; charset=utf-8\r\n/,
      )
      assert.match(answer, /pgcm_quorum 1\n/)
      assert.is(status(await send(get('/metrics?x=1', 'Connection: keep-alive\r\n'))), 200)
    },
  )
})

test('anything else is refused, and nothing happens', async () => {
  let asked = 0
  await served(
    () => String(++asked),
    async (send) => {
      for (const path of ['/', '/metrics/', '/metrics/../x', '//metrics']) {
        assert.is(status(await send(get(path))), 404, path)
      }
      for (const method of ['POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH']) {
        assert.is(status(await send(get('/metrics').replace('GET', method))), 405, method)
      }
      assert.is(status(await send(`${get('/metrics', 'Content-Length: 4\r\n')}body`)), 413)
      // Who sends on may lose the answer with the connection.
      await send(get('/metrics', 'Content-Length: 9000000\r\n') + 'x'.repeat(9_000_000))
      assert.is(status(await send(get('/metrics', 'Transfer-Encoding: chunked\r\n'))), 413)
      assert.is(status(await send(get('/metrics', `X-Long: ${'x'.repeat(10_000)}\r\n`))), 431)
      for (const rubbish of ['\x16\x03\x01\x02', 'GET', 'CONNECT x:1 HTTP/1.1\r\n\r\n', '\r\n\r\n\0\0\0\0'])
        assert.not.match(await send(`${rubbish}\r\n\r\n`), ' 200 ', JSON.stringify(rubbish))
      assert.is(asked, 0)
      assert.match(await send(get('/metrics').repeat(500)), /^HTTP\/1\.1 200 /)
      assert.is(asked, 1, 'one request a connection')
    },
  )
})

test('who is slow is cut off, and never more than eight are let in', async () => {
  await served(
    () => 'page',
    async (send) => {
      const slow = Array.from({ length: 20 }, () => send('GET /metrics HTTP/1.1\r\nHost: x\r\n'))
      const answers = (await Promise.all(slow)).map((answer) => answer && status(answer))
      // 408 comes from the time-out of the request, not from the longer one of a silent connection.
      assert.equal(answers.sort(), [...Array(12).fill(''), ...Array(8).fill(408)])
      assert.is(status(await send(get('/metrics'))), 200)
    },
  )
})

test('a page that cannot be made is an error for its reader only', async () => {
  let broken = true
  const page = () => {
    if (broken) throw new Error('secret')
    return 'fine'
  }
  await served(page, async (send) => {
    const answer = await send(get('/metrics'))
    assert.is(status(answer), 500)
    assert.not.match(answer, 'secret')
    broken = false
    assert.match(await send(get('/metrics')), 'fine')
  })
})

test('an address that is none, or is taken, is refused', async () => {
  const refusal = (bind: string) =>
    serveMetrics('proxy-metrics-address', bind, () => '').then(
      () => 'it listens',
      (error) => (error instanceof Refused ? error.message : String(error)),
    )
  for (const bind of [
    '7433',
    '127.0.0.1',
    '127.0.0.1:',
    ':x',
    '127.0.0.1:99999',
    'a b:1',
    '::1:7433',
    'http://x:1',
  ])
    assert.is(await refusal(bind), `proxy-metrics-address: ${bind} is not [host]:port`)
  const server = await serveMetrics('x', '127.0.0.1:0', () => '')
  const taken = `127.0.0.1:${server.port}`
  assert.match(await refusal(taken), `proxy-metrics-address: cannot listen on ${taken}: listen EADDRINUSE`)
  assert.match(await refusal('192.0.2.1:7433'), /cannot listen on 192\.0\.2\.1:7433: listen EADDRNOTAVAIL/)
  server.close()
})

test('each daemon has an address of its own, and an empty one turns it off', () => {
  const { config } = load('proxy', [], { PGCM_CONFIG_FILE: '/dev/null', PGCM_PROXY_METRICS_ADDRESS: '' })
  assert.equal([config.superviseMetricsAddress, config.proxyMetricsAddress], ['127.0.0.1:7432', ''])
})

test.run()
