import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { primaryOf, view } from '../lib/cluster.ts'
import { afterPromotion, promotionUnderWay } from '../lib/promotion.ts'

const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const fixture = (name: string) => readFileSync(new URL(`./fixtures/${name}.xml`, import.meta.url), 'utf8')
const healthy = { cib: fixture('trixie-healthy.cib'), monitor: fixture('trixie-healthy.crm_mon') }
const seen = view(healthy.monitor, healthy.cib, names)
/** What pg03, the primary of the fixture, knew before: pg01 was primary of epoch 169, and itself a standby. */
const before = {
  ...seen,
  epoch: { promoted: 170, of: { pg01: 169, pg02: 170 } },
  nodes: seen.nodes.map((node) => ({ ...node, role: node.name === 'pg02' ? 'Promoted' : 'Unpromoted' })),
}
/** The CIB right after the promotion: the monitors that came after it are not there yet. */
const state = healthy.cib.slice(healthy.cib.indexOf('uname="pg03" in_ccm'))
const pg03 = state.slice(0, state.indexOf('</node_state>'))
const promoted = healthy.cib.replace(pg03, pg03.replace(/<lrm_rsc_op id="Postgresql_monitor_\d+"[^>]*>/g, ''))

test('a promotion is under way from the word of the agent to the word of Pacemaker', () => {
  const state = (status: string, last: string) =>
    `<cib><node_state id="1" uname="pg01"><nvpair id="a" name="Postgresql-status" value="${status}"/>` +
    `<lrm_rsc_op id="Postgresql_last_0" ${last}/></node_state><node_state id="2" uname="pg02"></node_state></cib>`
  for (const [expected, status, last] of [
    [true, 'PRI', 'operation="start" call-id="4" rc-code="0"'],
    [true, 'PRI', 'operation="promote" call-id="5" rc-code="1"'],
    [false, 'PRI', 'operation="promote" call-id="5" rc-code="0"'],
    [false, 'PRI', 'operation="monitor" call-id="2" rc-code="8"'],
    [false, 'HS:sync', 'operation="start" call-id="4" rc-code="0"'],
    [true, 'HS:sync', 'operation="promote" call-id="5" rc-code="0"'],
  ] as const)
    assert.is(promotionUnderWay(state(status, last), names, 'pg01'), expected, `${status} ${last}`)
  assert.is(promotionUnderWay(state('PRI', ''), names, 'pg02'), false)
  assert.is(promotionUnderWay(state('PRI', ''), names, 'pg09'), false)
  assert.is(promotionUnderWay(healthy.cib, names, 'pg03'), false)
})

test('right after its promotion a node knows that it is primary, by the CIB alone', () => {
  const after = afterPromotion(before, promoted, names, 'pg03')
  assert.ok(after)
  assert.is(primaryOf(after)?.name, 'pg03')
  assert.is(after.epoch.promoted, 171)
  assert.equal(
    after.nodes.map(({ role }) => role),
    ['Unpromoted', 'Unpromoted', 'Promoted'],
  )
})

test('where anything is in doubt it waits for crm_mon', () => {
  const cases: [string, string | RegExp, string][] = [
    ['no quorum', 'have-quorum="1"', 'have-quorum="0"'],
    ['not in the membership', /(uname="pg03" in_ccm=)"\d+"/, '$1"0"'],
    ['not joined', /(uname="pg03" in_ccm[^>]*join=)"member"/, '$1"down"'],
    [
      'another action came after',
      /(uname="pg03" in_ccm[\s\S]*?Postgresql_last_0"[^>]*operation=)"promote"/,
      '$1"demote"',
    ],
    ['it failed', /(uname="pg03" in_ccm[\s\S]*?Postgresql_last_0"[^>]*rc-code=)"0"/, '$1"1"'],
    ['not PRI', 'name="Postgresql-status" value="PRI"', 'name="Postgresql-status" value="HS:alone"'],
    ['not LATEST', 'value="LATEST"', 'value="DISCONNECT"'],
    ['no epoch yet', 'name="Postgresql-epoch" value="171"', 'name="Postgresql-epoch" value=""'],
    ['an older epoch', 'name="Postgresql-epoch" value="171"', 'name="Postgresql-epoch" value="163"'],
    [
      'another of the same epoch',
      'name="Postgresql-epoch" value="170"',
      'name="Postgresql-epoch" value="171"',
    ],
  ]
  for (const [what, from, to] of cases) {
    const cib = promoted.replace(from, to)
    assert.ok(cib !== promoted, `${what}: ${from} is not in the fixture`)
    assert.is(afterPromotion(before, cib, names, 'pg03'), null, what)
  }
  assert.is(afterPromotion(seen, promoted, names, 'pg03'), null, 'it is known already')
  assert.is(afterPromotion(before, promoted, names, 'pg01'), null, 'it is another node')
})

test.run()
