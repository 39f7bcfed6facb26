/** The metrics, the alerts, the dashboard and the pages about them fit together. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { table } from '../lib/metrictable.ts'
import { promtool } from './promtool.ts'

const path = (name: string) => fileURLToPath(new URL(`../docs/${name}`, import.meta.url))
const read = (name: string) => readFileSync(path(name), 'utf8')
const alerts = read('monitoring/alerts.yml')
const alertNames = [...alerts.matchAll(/- alert: (\S+)/g)].map(([, name]) => String(name))

interface Panel {
  title: string
  gridPos: { x: number; y: number; w: number; h: number }
  targets: { expr: string }[]
}
const { panels }: { panels: Panel[] } = JSON.parse(read('monitoring/dashboard.json'))
const expressions = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))

const named = (text: string) =>
  new Set(
    [...text.matchAll(/\b(?:pgcm|process)_[a-z_]+\b/g)].map(([name]) =>
      name.replace(/(?<=_duration_seconds)_(bucket|sum|count)$/, ''),
    ),
  )

test('alerts and dashboard use only metrics that the daemons have', () => {
  const where = { alerts, dashboard: expressions.join('\n') }
  for (const [place, text] of Object.entries(where)) {
    assert.ok(named(text).size > 5, place)
    for (const name of named(text)) assert.ok(name in table, `${place} ask for ${name}`)
  }
})

test('the dashboard shows every metric', () => {
  const shown = named(expressions.join('\n'))
  assert.equal(
    Object.keys(table).filter((name) => !shown.has(name)),
    [],
  )
})

test('its panels do not overlap, and have titles of their own', () => {
  const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
    Array.from({ length: w * h }, (_, i) => `${x + (i % w)} ${y + Math.floor(i / w)}`),
  )
  assert.is(new Set(cells).size, cells.length)
  assert.ok(panels.every(({ gridPos: { x, w } }) => x + w <= 24))
  assert.is(new Set(panels.map(({ title }) => title)).size, panels.length)
})

test('promtool accepts every expression of the dashboard', async () => {
  const rules = expressions.map((expr, i) => ({
    record: `panel:${i}`,
    expr: expr.replaceAll('$__rate_interval', '1m').replaceAll('$cluster', '.*'),
  }))
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-dashboard-'))
  try {
    const file = join(dir, 'rules.yml')
    writeFileSync(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }))
    assert.match(await promtool(['check', 'rules', file]), `SUCCESS: ${expressions.length} rules found`)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

test('promtool accepts the configuration, and it reads the ports that are the default', async () => {
  assert.match(await promtool(['check', 'config', path('monitoring/prometheus.yml')]), 'SUCCESS')
  const { config } = load('supervise', [], { PGCM_CONFIG_FILE: '/dev/null' })
  const page = read('monitoring.md')
  for (const [script, address] of [
    ['supervise', config.superviseMetricsAddress],
    ['proxy', config.proxyMetricsAddress],
  ] as const) {
    const port = address.replace(/.*:/, '')
    const [, job = ''] = read('monitoring/prometheus.yml').split(`job_name: pgcm-${script}\n`)
    const targets = job.match(/targets: \[(.*)\]/)?.[1]?.split(', ') ?? []
    assert.ok(targets.length >= 3 && targets.every((target) => target.endsWith(`:${port}`)), script)
    assert.ok(page.includes(`  ${script}-metrics-address: ":${port}"\n`))
    assert.ok(
      page.includes(`| \`pgcm-${script}\` | \`http://${address}/metrics\` | \`${script}-metrics-address\` |`),
    )
  }
})

test('the page lists every metric as it is', () => {
  const rows = Object.entries(table).map(([name, metric]) => {
    const labels = ('labels' in metric ? metric.labels : []).map((label) => `\`${label}\``).join(', ')
    return `| \`${name}\` | ${metric.type} | ${metric.on.join(', ')} | ${labels || '-'} | ${metric.help} |`
  })
  const rule = '|---|---|---|---|---|\n'
  // After a change that is meant: UPDATE_FIXTURES=1 node --import tsx test/monitoring.test.ts
  const [before, after = ''] = read('monitoring.md').split(rule)
  const wanted = `${before}${rule}${rows.join('\n')}\n\n${after.replace(/^(\|.*\n)*\n?/, '')}`
  if (process.env.UPDATE_FIXTURES) writeFileSync(path('monitoring.md'), wanted)
  assert.fixture(read('monitoring.md'), wanted)
})

test('for each alert there is a line that says what to do, and no line is for an alert that is not', () => {
  const section = read('failure-modes.md').split('## Alerts\n')[1]?.split('\n## ')[0] ?? ''
  const lines = [...section.matchAll(/^\| `(\w+)` \| (.+) \| (.+) \|$/gm)]
  assert.equal(lines.map(([, name]) => name).sort(), [...alertNames].sort())
  for (const name of alertNames) assert.match(name, /^Pgcm[A-Z]\w+$/)
})

test('the README leads to the page', () => {
  assert.match(readFileSync(new URL('../README.md', import.meta.url), 'utf8'), '(docs/monitoring.md)')
})

test.run()
