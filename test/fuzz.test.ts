/** Input that nobody meant: nothing crashes, and nothing false is believed. 10,000 cases of each kind. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { primaryOf, standbysOf } from '../lib/cluster.ts'
import { publication } from '../lib/clusterwatch.ts'
import { camel, duration, envName, load, optionsOf } from '../lib/config.ts'
import { view } from '../lib/crmmon.ts'
import { Failed, Refused } from '../lib/errors.ts'
import { type Cluster, decide, parseCluster } from '../lib/publish.ts'
import { modelOf, render, template } from '../lib/render.ts'
import { primaryIn } from './independent.ts'
import { fuzz, mutate, type Random, textOf, value } from './random.ts'

const CASES = 10_000
const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const fixture = (name: string) => readFileSync(new URL(`./fixtures/${name}.xml`, import.meta.url), 'utf8')
const pairs = ['trixie-healthy', 'bookworm-nobody-promoted'].map(
  (name) => [fixture(`${name}.crm_mon`), fixture(`${name}.cib`)] as const,
)

/** Values that Pacemaker does print, so that many mutations stay well-formed and mean something else. */
const values =
  'true false 0 1 2 3 4 Promoted Unpromoted Master Slave Started Stopped PRI HS:sync LATEST DISCONNECT pg01 pg02 pg03'
    .split(' ')
    .concat(
      'STREAMING|SYNC',
      'msPostgresql',
      'Postgresql',
      'Postgresql:0',
      '',
      '&#80;RI',
      '3&#10;',
      ' 3',
      '1e3',
      'Postgresql-status',
      'Postgresql-epoch',
      '169',
      '171',
      '172',
      '99999999999',
    )

function revalue(random: Random, xml: string): string {
  for (let n = 1 + random.below(4); n > 0; n--) {
    const places = [...xml.matchAll(/="([^"]*)"/g)]
    const place = random.pick(places)
    const from = random.chance(0.5) ? random.pick(values) : (random.pick(places)[1] as string)
    xml = `${xml.slice(0, place.index + 2)}${from}${xml.slice(place.index + 2 + (place[1] as string).length)}`
  }
  return xml
}

/** A line goes, doubles, or goes elsewhere: crm_mon prints an element a line. */
function reline(random: Random, xml: string): string {
  const lines = xml.split('\n')
  const [line] = lines.splice(random.below(lines.length), random.chance(0.7) ? 1 : 0)
  if (random.chance(0.7))
    lines.splice(random.below(lines.length), 0, line ?? lines[random.below(lines.length)] ?? '')
  return lines.join('\n')
}

const tags = [
  '<!--',
  '-->',
  '<![CDATA[',
  ']]>',
  '<!DOCTYPE x [<!ENTITY a "b">]>',
  '&a;',
  '<a>',
  '</node>',
  '<node name="pg01"/>',
]

let primaries = 0
let refusals = 0
fuzz('Pacemaker: a primary is one by the rules, whatever the XML', CASES, (random) => {
  const pair = random.chance(0.8) ? pairs[0] : pairs[1]
  const change = (xml: string) =>
    random.pick([() => revalue(random, xml), () => reline(random, xml), () => mutate(random, xml, tags)])()
  const which = random.below(3)
  const monitor = which === 1 ? (pair?.[0] ?? '') : change(pair?.[0] ?? '')
  const cib = which === 0 ? (pair?.[1] ?? '') : change(pair?.[1] ?? '')
  let found: string | undefined
  try {
    const seen = view(monitor, cib, names)
    found = primaryOf(seen)?.name
    standbysOf(seen)
    publication(seen, new Map(), new Date())
  } catch (error) {
    if (!(error instanceof Failed)) throw error
    refusals += 1
    return
  }
  if (found === undefined) return
  primaries += 1
  assert.is(primaryIn(monitor, cib), found)
})

test('that was not all rubbish, nor all well', () => {
  assert.ok(primaries > 1000 && refusals > 1000, `${primaries} with a primary, ${refusals} refused`)
})

const { config } = load('proxy', ['--pgbouncer-databases=app,shop'], { PGCM_CONFIG_FILE: '/dev/null' })
const shipped = readFileSync(new URL('../templates/pgbouncer.ini.ejs', import.meta.url), 'utf8')
const offered = 'app_ro = dbname=app host=<%= it.readers %> port=<%= it.settings.postgresPort %>'
const compiled = template(shipped.replace('[pgbouncer]', `${offered}\n[pgbouncer]`), 'shipped')
const seen: Cluster = publication(
  view(...(pairs[0] as [string, string]), names),
  new Map([1, 2, 3].map((n) => [`pg0${n}`, `10.0.0.${n}`])),
  new Date(0),
)

/** What might stand at the keys: the right thing with something wrong in it, or anything. */
function keyText(random: Random): string {
  const right = JSON.stringify({ ...seen, last: 'pg03' })
  if (random.chance(0.3)) return mutate(random, right)
  if (random.chance(0.2)) return JSON.stringify(value(random))
  const cluster = JSON.parse(right)
  const spoil = (object: Record<string, unknown>) => {
    if (object && typeof object === 'object') object[random.pick(Object.keys(object)) ?? 'x'] = value(random)
  }
  for (let n = 1 + random.below(3); n > 0; n--)
    spoil(random.chance(0.3) ? cluster : (random.pick([cluster.nodes].flat()) ?? cluster))
  if (random.chance(0.2)) cluster.nodes = [value(random), ...[cluster.nodes].flat()]
  return JSON.stringify(cluster)
}

const at = (text: string | null) => (text === null ? null : { value: text, revision: '7' })
const skeleton = (ini: string) => ini.split('\n').map((line) => line.replace(/=.*/, '='))
const clean = skeleton(render(compiled, modelOf(config, '10.0.0.3', seen)))

fuzz(
  'etcd: what stands there is read, or taken for nothing; what is written is what this node sees',
  CASES,
  (random) => {
    const text = keyText(random)
    const primary = random.chance(0.2) ? null : textOf(random)
    const cluster = parseCluster(at(text))
    if (cluster) {
      assert.ok(cluster.epoch >= 0 && cluster.epoch < 2 ** 32)
      assert.ok(cluster.last === null || typeof cluster.last === 'string')
      for (const node of cluster.nodes) assert.ok(typeof node.name === 'string' && node.name !== '')
    }
    const decision = decide({ cluster: at(text), primary: at(primary) }, seen)
    if ('refuse' in decision) {
      const said = JSON.parse(text)
      assert.ok(said.epoch > seen.epoch || (said.epoch === seen.epoch && said.last !== 'pg03'), text)
    }
    if ('write' in decision) {
      assert.ok(decision.write.primary === null || decision.write.primary === '10.0.0.3')
      if (decision.write.cluster) assert.is(JSON.parse(decision.write.cluster).primary, 'pg03')
    }
  },
)

fuzz('etcd: nothing there can put a line, or a word, into pgbouncer.ini', CASES, (random) => {
  const address = random.chance(0.5)
    ? '10.0.0.3'
    : random.chance(0.5)
      ? textOf(random)
      : mutate(random, '10.0.0.3')
  const model = modelOf(config, address, parseCluster(at(keyText(random))))
  let ini: string
  try {
    ini = render(compiled, model)
  } catch (error) {
    if (!(error instanceof Failed)) throw error
    assert.not(isIP(address) && !address.includes('%'), `a good address was refused: ${address}`)
    return
  }
  assert.equal(skeleton(ini), clean)
  for (const [, name, hosts] of ini.matchAll(/^(\w+) = (?:dbname=app )?host=(\S+) port=5432$/gm)) {
    if (name !== 'app_ro') assert.is(hosts, address)
    for (const host of (hosts ?? '').split(',')) assert.ok(isIP(host), hosts)
  }
})

fuzz('etcd: a template that misuses what it gets is refused rather than obeyed', CASES, (random) => {
  const settings = { ...modelOf(config, '10.0.0.3', seen).settings, authFile: value(random) as never }
  const standbys = [{ name: value(random) as never, address: value(random) as never }]
  const text = `${shipped}\nx = <%= it.settings.authFile %>\ny = <%= it.standbys[0].name %>\nz = <%= it.standbys[0].address %>\n`
  let ini: string
  try {
    ini = render(template(text, 't'), { ...modelOf(config, '10.0.0.3', seen), settings, standbys })
  } catch (error) {
    if (!(error instanceof Failed)) throw error
    return
  }
  assert.equal(skeleton(ini).slice(-4), ['x =', 'y =', 'z =', ''])
})

const scripts = ['supervise', 'proxy', 'failover', 'rejoin', 'status', 'lock'] as const
const all = [...new Map(scripts.flatMap(optionsOf).map((option) => [option.name, option])).values()]
const dir = mkdtempSync(join(tmpdir(), 'pgcm-fuzz-'))
process.on('exit', () => rmSync(dir, { recursive: true }))

function toml(random: Random): string {
  const lines = Array.from({ length: random.below(4) }, () => {
    const { name, default: standard } = random.pick(all)
    const plain = random.chance(0.6) ? standard : value(random, 1)
    return `${name} = ${JSON.stringify(plain)}`
  })
  const text = lines.join('\n')
  return random.chance(0.5) ? text : mutate(random, text)
}

function environment(random: Random): NodeJS.ProcessEnv {
  const entries = Array.from({ length: random.below(3) }, () => {
    const { name, default: standard } = random.pick(all)
    return [
      random.chance(0.9) ? envName(name) : `PGCM_${random.text(8)}`,
      random.chance(0.5) ? String(standard) : textOf(random),
    ]
  })
  return Object.fromEntries(entries)
}

fuzz('settings: each is of its kind and within its bounds, or the run is refused', CASES, (random) => {
  const file = join(dir, 'pgcm.toml')
  writeFileSync(file, toml(random))
  const env = { ...environment(random), PGCM_CONFIG_FILE: file }
  const flag = () => {
    const { name, default: standard } = random.pick(all)
    const text = random.chance(0.5) ? String(standard) : textOf(random)
    return random.pick([[`--${name}=${text}`], [`--${name}`, text], [mutate(random, `--${name}=${text}`)]])
  }
  const argv = random.chance(0.5) ? [] : flag()
  let parsed: ReturnType<typeof load>
  try {
    parsed = load(random.pick(scripts), argv, env)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    assert.ok((error as Error).message.length > 5)
    return
  }
  for (const option of all) {
    const found = parsed.config[camel(option.name) as 'help'] as unknown
    if (option.type === 'bool') assert.type(found, 'boolean')
    if (option.type === 'string') assert.type(found, 'string')
    if (option.type === 'enum') assert.ok(option.choices.includes(found as string))
    if (option.type === 'list')
      assert.ok((found as string[]).every((item) => typeof item === 'string' && item))
    if (option.type === 'int' || option.type === 'duration') {
      const min = option.type === 'int' ? (option.min ?? 0) : (duration(option.min ?? '0') ?? 0)
      assert.ok(Number.isInteger(found) && (found as number) >= min, `${option.name}: ${found}`)
    }
  }
})

test.run()
