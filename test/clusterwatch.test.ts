import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addressBook, alerts, courtesy, pokes, publication } from '../lib/clusterwatch.ts'
import { view } from '../lib/crmmon.ts'
import { Failed } from '../lib/errors.ts'
import { log } from '../lib/log.ts'
import { sh } from '../lib/sh.ts'
import { until } from '../lib/wait.ts'

log.setLevel('error')
const fixture = (name: string) =>
  readFileSync(new URL(`./fixtures/trixie-healthy.${name}.xml`, import.meta.url), 'utf8')
const healthy = view(fixture('crm_mon'), fixture('cib'), { resource: 'Postgresql', clone: 'msPostgresql' })
const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 3000, everyMs: 2 }, probe)

async function inDirectory(body: (dir: string, signal: AbortSignal) => Promise<void>) {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-poke-'))
  const stop = new AbortController()
  try {
    await body(dir, stop.signal)
  } finally {
    stop.abort()
    rmSync(dir, { recursive: true })
  }
}

test("Pacemaker's alert agent wakes us", async () => {
  const alert = new URL('../ansible/roles/pgcm/files/pgcm-alert', import.meta.url).pathname
  await inDirectory(async (dir, signal) => {
    const file = join(dir, 'poke')
    let woken = 0
    await pokes(file, signal, () => {
      woken += 1
    })
    assert.is(statSync(file).mode & 0o777, 0o666)
    const env = { ...process.env, PGCM_ALERT_POKE: file }
    await sh([alert], { env: { ...env, CRM_alert_kind: 'resource', CRM_alert_task: 'promote' } })
    assert.is(readFileSync(file, 'utf8'), '')
    await sh([alert], { env: { ...env, CRM_alert_kind: 'node', CRM_alert_node: 'pg02' } })
    await soon('woken', () => woken > 0)
    const before = woken
    writeFileSync(file, 'again')
    await soon('woken again', () => woken > before)
  })
})

test('alerts are relied on where the CIB has them, until something happens of which they did not tell', () => {
  const cib = fixture('cib')
  const without = (name: string) => ({
    ...healthy,
    nodes: healthy.nodes.map((node) => (node.name === name ? { ...node, online: false } : node)),
  })
  const warned = alerts('pg03')
  assert.not(warned.reliable(cib.replace('pgcm-alert"', 'another"').replace('/pgcm-alert', '/another')))
  warned.seen(healthy)
  assert.ok(warned.reliable(cib))
  warned.heard()
  warned.seen(without('pg02'))
  assert.ok(warned.reliable(cib), 'it was told')
  for (const [self, view] of [
    ['pg03', without('pg02')],
    ['pg03', { ...healthy, quorum: false }],
  ] as const) {
    const unwarned = alerts(self)
    unwarned.seen(view)
    unwarned.seen(healthy)
    assert.not(unwarned.reliable(cib), 'a node came, or a promotion here, and nobody said so')
    unwarned.heard()
    assert.ok(unwarned.reliable(cib), 'it was only late')
  }
  let at = 1_000_000
  const killed = alerts('pg03', () => at)
  killed.seen({ ...healthy, quorum: false })
  killed.seen(healthy)
  at += 599_000
  assert.not(killed.reliable(cib), 'not yet')
  at += 2000
  assert.ok(killed.reliable(cib), 'it was long ago')
  const elsewhere = alerts('pg01')
  elsewhere.seen({ ...healthy, quorum: false })
  elsewhere.seen(healthy)
  assert.ok(elsewhere.reliable(cib), 'of a promotion elsewhere nobody tells this node')
})

test('the alert agent does nothing where no supervise runs', async () => {
  const alert = new URL('../ansible/roles/pgcm/files/pgcm-alert', import.meta.url).pathname
  await inDirectory(async (dir) => {
    const env = { ...process.env, PGCM_ALERT_POKE: join(dir, 'none') }
    await sh([alert], { env: { ...env, CRM_alert_kind: 'node' } })
    assert.throws(() => statSync(join(dir, 'none')))
  })
})

test('without the file it works by polls', async () => {
  const silent = process.stderr.write
  process.stderr.write = () => true
  try {
    await pokes('/nonexistent/poke', new AbortController().signal, () => {})
  } finally {
    process.stderr.write = silent
  }
})

test('an address that cannot be looked up right now stays what it was', async () => {
  let works = true
  let net = '10.0.0'
  let asked = 0
  const book = addressBook(async (node) => {
    asked += 1
    if (!works && node === 'pg01') throw new Failed('no DNS')
    return `${net}.${node.slice(-1)}`
  }, 0)
  const silent = process.stderr.write
  process.stderr.write = () => true
  try {
    await book(['pg01'])
    works = false
    await book(['pg01'])
    await until('it was looked up again', { timeoutMs: 1000, everyMs: 1 }, () => asked === 2)
    assert.equal(
      [...(await book(['pg01', 'pg02']))],
      [
        ['pg01', '10.0.0.1'],
        ['pg02', '10.0.0.2'],
      ],
    )
    works = true
    net = '10.0.1'
    await until(
      'a new address is known soon',
      { timeoutMs: 1000, everyMs: 1 },
      async () => (await book(['pg01'])).get('pg01') === '10.0.1.1',
    )
  } finally {
    process.stderr.write = silent
  }
})

test('what the world may know of the cluster', () => {
  const addresses = new Map([
    ['pg01', '10.0.0.1'],
    ['pg03', '10.0.0.3'],
  ])
  const { nodes, ...rest } = publication(healthy, addresses, new Date('2026-01-02T03:04:05Z'))
  assert.equal(rest, { epoch: 171, primary: 'pg03', last: null, updatedAt: '2026-01-02T03:04:05.000Z' })
  assert.equal(
    nodes.map(({ name, address, role, dataStatus }) => [name, address, role, dataStatus]),
    [
      ['pg01', '10.0.0.1', 'Unpromoted', 'STREAMING|SYNC'],
      ['pg02', null, 'Unpromoted', 'STREAMING|POTENTIAL'],
      ['pg03', '10.0.0.3', 'Promoted', 'LATEST'],
    ],
  )
})

test("the primary's own node publishes at once, the others leave it the time to", () => {
  const dc = healthy.dc as string
  const other = ['pg01', 'pg02', 'pg03'].find((name) => name !== 'pg03' && name !== dc) as string
  assert.is(courtesy(healthy, 'pg03'), 0)
  assert.is(courtesy(healthy, other), 2000)
  const nobody = { ...healthy, quorum: false }
  assert.is(courtesy(nobody, dc), 1000, 'without a primary the DC tells first')
  assert.is(courtesy(nobody, other), 2000)
})

test.run()
