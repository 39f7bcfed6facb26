import { readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import type { Cluster } from '../lib/publish.ts'
import { databasesIn, modelOf, render, template } from '../lib/render.ts'

const shipped = readFileSync(new URL('../templates/pgbouncer.ini.ejs', import.meta.url), 'utf8')
const { config } = load('proxy', ['--pgbouncer-databases=app,shop'], { PGCM_CONFIG_FILE: '/dev/null' })
const model = modelOf(config, '10.0.0.1', null)
const node = (name: string, role: string, dataStatus: string, online = true) => ({
  ...{ name, address: `10.0.0.${name.slice(-1)}`, online, role, dataStatus, status: null, score: null },
})
const cluster: Cluster = {
  ...{ epoch: 7, primary: 'pg1', last: 'pg1', updatedAt: '' },
  nodes: [
    node('pg1', 'Promoted', 'LATEST'),
    node('pg2', 'Unpromoted', 'STREAMING|SYNC'),
    node('pg3', 'Unpromoted', 'STREAMING|POTENTIAL'),
    node('pg4', 'Unpromoted', 'DISCONNECT'),
    node('pg5', 'Unpromoted', 'STREAMING|ASYNC', false),
  ],
}

test('the shipped template points every managed database at the primary', () => {
  const text = render(template(shipped, 'shipped'), model)
  assert.equal(
    [...databasesIn(text)],
    [
      ['app', '10.0.0.1'],
      ['shop', '10.0.0.1'],
    ],
  )
  assert.match(text, /^pool_mode = transaction$/m)
  assert.match(text, /^server_login_retry = 0\.1$/m)
  assert.match(text, /^; app_ro = dbname=app host=<%= it\.readers %> port/m)
})

test('the line it offers for a reading database works', () => {
  const line = render(template(shipped, 'shipped'), model).match(/^; (app_ro = .*)$/m)?.[1]
  const text = render(
    template(shipped.replace('[pgbouncer]', `${line}\n[pgbouncer]`), 't'),
    modelOf(config, '10.0.0.1', cluster),
  )
  assert.is(databasesIn(text).get('app_ro'), '10.0.0.2,10.0.0.3')
})

test('only standbys that stream and are online are for reading; without any the primary is', () => {
  assert.equal(
    modelOf(config, '10.0.0.1', cluster).standbys.map(({ name }) => name),
    ['pg2', 'pg3'],
  )
  assert.is(modelOf(config, '10.0.0.1', null).readers, '10.0.0.1')
})

test('a standby that is too far behind is not for reading; where all are, the primary is', () => {
  assert.is(modelOf(config, '10.0.0.1', cluster, ['pg3', 'pg9']).readers, '10.0.0.2')
  assert.is(modelOf(config, '10.0.0.1', cluster, ['pg2', 'pg3']).readers, '10.0.0.1')
})

test("a standby's address that cannot stand in the file is left out, and costs the primary nothing", () => {
  const odd = ['fe80::1%eth0', 'pg2', '10.0.0.9 x=1', null].map((address) => ({
    ...node('pg9', 'Unpromoted', 'STREAMING|ASYNC'),
    address,
  }))
  const withOdd = modelOf(config, '10.0.0.1', { ...cluster, nodes: [...cluster.nodes, ...odd] })
  assert.is(withOdd.readers, '10.0.0.2,10.0.0.3')
})

const body = '[databases]\napp = host=<%= it.primary %>\nshop = host=<%= it.primary %>\n[pgbouncer]\n'
const refused = (text: string, why: RegExp, changes = {}) =>
  assert.throws(() => render(template(text, 'the file'), { ...model, ...changes }), why)

test('a template that is none, or says something else, is refused', () => {
  assert.ok(render(template(body, 'the file'), model))
  refused(`${body}<% if ( %>`, /the file: .*/)
  refused(`${body}<%= it.nothing %>`, /undefined cannot stand in the file/)
  refused(`${body}<%= nothing %>`, /nothing is not defined/)
  refused(`${body}<%- it.primary %>`, /<%- is not allowed/)
  refused(body.replace('[pgbouncer]', ''), /no section \[pgbouncer\]/)
  refused(body.replace(/^shop.*\n/m, ''), /points shop at nothing/)
  refused(body.replace(/^shop.*$/m, 'shop = host=10.9.9.9'), /points shop at 10\.9\.9\.9/)
  refused(body.replace('[databases]', '[other]'), /points app at nothing/)
})

test('an address that is none is refused', () => {
  for (const primary of [
    '',
    ' ',
    'pg01',
    '10.0.0',
    '10.0.0.1\nx=1',
    '10.0.0.1 port=1',
    '999.0.0.1',
    '10.0.0.1,10.0.0.2',
  ]) {
    refused(body, /the primary's address in etcd is none/, { primary })
  }
  assert.ok(render(template(body, 't'), { ...model, primary: 'fd00::1' }))
})

test('nothing can bring a second line or a quote into the file', () => {
  const evil = ['x\nadmin_users=evil', "a'b", 'a b', '"', '[pgbouncer]', 'a=b', ';']
  for (const word of evil) {
    const text = `${body}auth_file = <%= it.settings.authFile %>\n`
    refused(text, /cannot stand in the file/, { settings: { ...model.settings, authFile: word } })
  }
})

test.run()
