import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { addressOf, isHost } from '../lib/address.ts'
import { load } from '../lib/config.ts'
import { Failed } from '../lib/errors.ts'
import { nodeHandlers } from '../lib/nodeapi.ts'
import { migrate, migrateCommand, readCluster, unmigrate, unmigrateCommand } from '../lib/pacemaker.ts'

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

for (const [host, meant] of [
  ...([
    ['pg02', true],
    ['pg02.example.com', true],
    ['10.0.0.12', true],
  ] as const),
  ...([
    ['pg021', false],
    ['10.0.0.1', false],
    ['10.0.0.121', false],
    ['pg01.example.com', false],
  ] as const),
])
  test(`an endpoint at ${host} is ${meant ? '' : 'not '}that of pg02 at 10.0.0.12`, () =>
    assert.is(isHost(host, 'pg02', '10.0.0.12'), meant))

test('a standby that came back a moment ago, of which nobody has told us, can be the target of a move', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-target-'))
  const PATH = process.env.PATH
  try {
    for (const [program, kind] of [
      ['cibadmin', 'cib'],
      ['crm_mon', 'crm_mon'],
    ]) {
      const answer = new URL(`./fixtures/trixie-healthy.${kind}.xml`, import.meta.url).pathname
      const script = `#!/bin/sh\ncase $* in *--modify*) echo "$*" >>${dir}/did ;; *) cat ${answer} ;; esac\n`
      writeFileSync(join(dir, String(program)), script, { mode: 0o755 })
    }
    process.env.PATH = `${dir}:${PATH}`
    const names = { resource: 'Postgresql', clone: 'msPostgresql' }
    const view = await readCluster(names, { timeoutMs: 5000 })
    const stopped = {
      ...view,
      nodes: view.nodes.map((n) => (n.name === 'pg01' ? { ...n, role: 'Stopped' } : n)),
    }
    const { config } = load('supervise', [], { PGCM_CONFIG_FILE: '/dev/null' })
    const none = {} as never
    const { migrate } = nodeHandlers(
      config,
      names,
      none,
      none,
      none,
      none,
      () => stopped,
      () => 0,
    )
    await migrate({ target: 'pg01' }, new AbortController().signal).catch(
      (error) => assert.not.match(String(error), /is no standby that runs/), // there is no pg01 here to look up
    )
    assert.match(readFileSync(join(dir, 'did'), 'utf8'), /id="pgcm-move-msPostgresql".*value="pg01"/)
  } finally {
    process.env.PATH = PATH
    rmSync(dir, { recursive: true })
  }
})

test('a constraint stays until Pacemaker knows the newest epoch: without it the role would move back', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-unmigrate-'))
  const PATH = process.env.PATH
  const removed = join(dir, 'removed')
  try {
    const fixture = (kind: string) =>
      new URL(`./fixtures/trixie-healthy.${kind}.xml`, import.meta.url).pathname
    const cibadmin = `case $* in *--delete*) touch ${removed} ;; *--xpath*) exit 105 ;; *) cat ${fixture('cib')} ;; esac`
    writeFileSync(join(dir, 'cibadmin'), `#!/bin/sh\n${cibadmin}\n`, { mode: 0o755 })
    writeFileSync(join(dir, 'crm_mon'), `#!/bin/sh\ncat ${fixture('crm_mon')}\n`, { mode: 0o755 })
    process.env.PATH = `${dir}:${PATH}`
    const names = { resource: 'Postgresql', clone: 'msPostgresql' }
    const { epoch } = await readCluster(names, { timeoutMs: 5000 })
    let asked = 0
    await unmigrate(names, { timeoutMs: 5000 }, () => {
      assert.not(existsSync(removed))
      asked += 1
      return asked < 4 ? epoch.promoted + 1 : epoch.promoted
    })
    assert.is(asked, 4)
    assert.ok(existsSync(removed))
  } finally {
    process.env.PATH = PATH
    rmSync(dir, { recursive: true })
  }
})

test.run()
