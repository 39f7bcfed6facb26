import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { primaryOf, standbysOf, syncStandbyOf } from '../lib/cluster.ts'
import { view } from '../lib/crmmon.ts'
import { moveConstraint } from '../lib/pacemaker.ts'

const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const fixture = (name: string) => readFileSync(new URL(`./fixtures/${name}.xml`, import.meta.url), 'utf8')
const healthy = { cib: fixture('trixie-healthy.cib'), monitor: fixture('trixie-healthy.crm_mon') }

/** The view of the healthy cluster (pg03 is primary) with one thing replaced. */
function changed(from: string | RegExp, to: string) {
  const cib = healthy.cib.replace(from, to)
  const monitor = healthy.monitor.replace(from, to)
  assert.ok(cib !== healthy.cib || monitor !== healthy.monitor, `${from} is not in the fixture`)
  return view(monitor, cib, names)
}

test('a healthy cluster, Debian 13', () => {
  const cluster = view(healthy.monitor, healthy.cib, names)
  assert.is(primaryOf(cluster)?.name, 'pg03')
  assert.is(syncStandbyOf(cluster)?.name, 'pg01')
  assert.equal(
    standbysOf(cluster).map(({ name }) => name),
    ['pg01', 'pg02'],
  )
  assert.equal(
    cluster.nodes.map(({ score }) => score),
    [100, 10, 1000],
  )
  assert.equal(cluster.epoch, { promoted: 171, of: { pg01: 169, pg02: 170, pg03: 171 } })
  const { quorum, fencing, maintenance, managed, constraints, failures } = cluster
  assert.equal([quorum, fencing, maintenance, managed], [true, true, false, true])
  assert.equal([constraints, failures, cluster.fenceDevices], [[], [], ['fence-playground']])
})

test('a cluster in which every promotion failed, Debian 12', () => {
  const cluster = view(
    fixture('bookworm-nobody-promoted.crm_mon'),
    fixture('bookworm-nobody-promoted.cib'),
    names,
  )
  assert.is(primaryOf(cluster), null)
  assert.equal(standbysOf(cluster), [])
  assert.equal(
    cluster.nodes.map(({ score }) => score),
    [-1_000_000, -1_000_000, -1_000_000],
  )
  const [failure] = cluster.failures
  assert.equal(
    [failure?.resource, failure?.operation, failure?.node, failure?.code],
    ['Postgresql', 'promote', 'pg03', 1],
  )
  assert.match(failure?.reason ?? '', /^epoch \d+ has votes of nobody, needs 2/)
})

test('the old vocabulary means the same', () => {
  const monitor = healthy.monitor
    .replace('role="Promoted"', 'role="Master"')
    .replaceAll('role="Unpromoted"', 'role="Slave"')
  const cluster = view(monitor, healthy.cib, names)
  assert.is(primaryOf(cluster)?.name, 'pg03')
  assert.is(standbysOf(cluster).length, 2)
})

test('nobody is primary unless everything says so', () => {
  const cases: [string, string | RegExp, string][] = [
    ['no quorum', 'with_quorum="true"', 'with_quorum="false"'],
    ['offline', /(name="pg03" id="3") online="true"/, '$1 online="false"'],
    ['unclean', /(name="pg03" id="3" [^>]*)unclean="false"/, '$1unclean="true"'],
    ['not promoted', 'role="Promoted"', 'role="Unpromoted"'],
    ['not PRI', 'name="Postgresql-status" value="PRI"', 'name="Postgresql-status" value="HS:alone"'],
    ['not LATEST', 'value="LATEST"', 'value="DISCONNECT"'],
    ['an older epoch', /(name="Postgresql-epoch" value=)"169"/, '$1"172"'],
    ['another resource', 'resource id="Postgresql"', 'resource id="Other"'],
    ['another clone', 'clone id="msPostgresql"', 'clone id="msOther"'],
  ]
  for (const [name, from, to] of cases) {
    const text = name === 'another resource' ? changed(/resource id="Postgresql"/g, to) : changed(from, to)
    assert.is(primaryOf(text), null, name)
  }
})

test('LATEST left behind on another node changes nothing', () => {
  const cluster = changed('value="STREAMING|SYNC"', 'value="LATEST"')
  assert.is(primaryOf(cluster)?.name, 'pg03')
})

test('two that claim it are none', () => {
  const monitor = healthy.monitor
    .replace('role="Unpromoted"', 'role="Promoted"')
    .replace('value="HS:sync"', 'value="PRI"')
    .replace('value="STREAMING|SYNC"', 'value="LATEST"')
  const both = monitor.replace('name="Postgresql-epoch" value="169"', 'name="Postgresql-epoch" value="171"')
  assert.is(primaryOf(view(both, healthy.cib, names)), null)
})

test('constraints: ours, those of crm_resource, and the others', () => {
  const ban =
    '<rsc_location id="cli-ban-msPostgresql-on-pg01" rsc="msPostgresql" role="Promoted" node="pg01" score="-INFINITY"/>'
  const own = '<rsc_location id="x" rsc="msPostgresql" node="pg02" score="50"/>'
  const move = moveConstraint('msPostgresql', 'pg02', new Date('2026-01-02T03:04:05Z'))
  const { constraints } = changed('<constraints/>', `<constraints>${ban}${own}${move}</constraints>`)
  assert.equal(
    constraints.map(({ id, kind, node, role, score }) => [id, kind, node, role, score]),
    [
      ['cli-ban-msPostgresql-on-pg01', 'cli', 'pg01', 'Promoted', '-INFINITY'],
      ['x', 'other', 'pg02', null, '50'],
      ['pgcm-move-msPostgresql', 'ours', 'pg02', 'Promoted', 'INFINITY'],
    ],
  )
  assert.is(constraints[2]?.expires?.toISOString(), '2026-01-02T03:04:05.000Z')
})

test('what is no whole cluster is none at all', () => {
  const { cib, monitor } = healthy
  const bad: [string, string][] = [
    ['', cib],
    [monitor, ''],
    [monitor, 'Could not connect to the CIB: Transport endpoint is not connected'],
    [monitor.slice(0, 2000), cib],
    [monitor, cib.slice(0, 2000)],
    [monitor, '<cib/>'],
    [cib, monitor],
    [monitor, `<!DOCTYPE x>${cib}`],
    [monitor.replace('code="0"', 'code="102"'), cib],
    [
      monitor.replace(
        'message="OK"/>',
        'message="OK"><errors><error>not connected</error></errors></status>',
      ),
      cib,
    ],
  ]
  for (const [m, c] of bad)
    assert.throws(() => view(m, c, names), /Pacemaker printed|crm_mon failed|no version/)
})

test.run()
