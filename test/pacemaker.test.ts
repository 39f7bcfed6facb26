import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addressOf } from '../lib/address.ts'
import { Failed } from '../lib/errors.ts'
import { migrate, migrateCommand, unmigrateCommand } from '../lib/pacemaker.ts'

test('the move is a location rule that ends by itself', () => {
  assert.equal(migrateCommand('msPostgresql', 'pg02', new Date('2026-01-02T03:04:05.678Z')), [
    ...['cibadmin', '--modify', '--allow-create', '--scope', 'constraints', '--xml-text'],
    '<rsc_location id="pgcm-move-msPostgresql" rsc="msPostgresql">' +
      '<rule id="pgcm-move-msPostgresql-rule" role="Promoted" score="INFINITY" boolean-op="and">' +
      '<expression id="pgcm-move-msPostgresql-node" attribute="#uname" operation="eq" value="pg02"/>' +
      '<date_expression id="pgcm-move-msPostgresql-end" operation="lt" end="2026-01-02T03:04:05Z"/>' +
      '</rule></rsc_location>',
  ])
})

test('it is taken back by its id', () => {
  assert.equal(unmigrateCommand('msPostgresql'), [
    ...['cibadmin', '--delete', '--scope', 'constraints'],
    ...['--xml-text', '<rsc_location id="pgcm-move-msPostgresql"/>'],
  ])
})

test('a name that is none never reaches Pacemaker', async () => {
  for (const name of ['', 'a b', '"/>', 'a"b', '../x']) {
    const refused = await migrate('msPostgresql', name, 1000, { timeoutMs: 1000 }).catch((error) => error)
    assert.instance(refused, Failed)
    assert.match(refused.message, /is no node name/)
  }
})

test('a node never has a loopback address', async () => {
  const refused = await addressOf('localhost').catch((error) => error)
  assert.instance(refused, Failed)
  assert.match(refused.message, /localhost has only loopback addresses here: /)
})

test.run()
