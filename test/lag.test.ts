/** How far standbys lag, and who is said to be too far behind to read from. */
import { mkdtempSync, rmSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { ClusterView } from '../lib/cluster.ts'
import { load } from '../lib/config.ts'
import { laggards, lagMeter, parseLaggards, watchLag } from '../lib/lag.ts'
import { until } from '../lib/wait.ts'
import { fakeConsole, table } from './fakeconsole.ts'

const HOUR = 3_600_000
const value = (text: string) => ({ value: text, revision: 1 }) as never

/** Feeds a meter: each time, where the primary is and what pg02 has replayed. */
function measure(...rows: [at: number, lsn: number, replayed: number][]) {
  const meter = lagMeter()
  const all = rows.map(([at, lsn, replayed]) => meter(at, { lsn, replayed: new Map([['pg02', replayed]]) }))
  return all.map((lags) => lags.get('pg02'))
}

test('a standby that has everything does not lag, however old that is', () => {
  assert.equal(measure([0, 100, 100], [60_000, 100, 100]), [
    { least: 0, most: 0 },
    { least: 0, most: 0 },
  ])
})

test('one that has stopped lags since the first mark that it has not reached', () => {
  assert.equal(measure([0, 100, 100], [1000, 200, 150], [2000, 300, 150], [5000, 400, 150]), [
    { least: 0, most: 0 },
    { least: 0, most: 1000 },
    { least: 1000, most: 2000 },
    { least: 4000, most: 5000 },
  ])
})

test('one that catches up lags from the mark that it has reached', () => {
  assert.equal(measure([0, 100, 50], [1000, 200, 50], [2000, 300, 250]).at(-1), { least: 0, most: 1000 })
})

test('one that was behind before the first mark may lag for ever', () => {
  assert.equal(measure([0, 100, 50])[0], { least: 0, most: Number.POSITIVE_INFINITY })
})

test('what is longer than an hour is an hour', () => {
  const rows = Array.from({ length: 200 }, (_, i) => [i * 60_000, 100 + i, 50] as [number, number, number])
  assert.is(measure(...rows).at(-1)?.least, HOUR)
})

test('who lags: beyond the limit for sure; until it is within it for sure', () => {
  const who = (before: string[], least: number, most: number) =>
    laggards(before, new Map([['pg02', { least, most }]]), 10_000)
  assert.equal(who([], 9000, 11_000), [])
  assert.equal(who([], 10_001, 12_000), ['pg02'])
  assert.equal(who(['pg02'], 9000, 11_000), ['pg02'])
  assert.equal(who(['pg02'], 0, Number.POSITIVE_INFINITY), ['pg02'], 'a daemon that has just started')
  assert.equal(who(['pg02'], 8000, 9000), [])
  assert.equal(who(['pg03'], 20_000, 30_000), ['pg02', 'pg03'], 'pg03 does not stream')
})

test('without a limit nobody lags, not even who did', () => {
  const lags = new Map([['pg02', { least: 5000, most: Number.POSITIVE_INFINITY }]])
  assert.equal(laggards(['pg02'], lags, Number.POSITIVE_INFINITY), [])
})

test('rubbish in etcd names nobody', () => {
  assert.equal(parseLaggards(null), [])
  for (const text of ['', '{', 'null', '7', '{"pg02":1}']) assert.equal(parseLaggards(value(text)), [])
  assert.equal(parseLaggards(value('["pg02", 7, null]')), ['pg02'])
})

test('while etcd is down the lag of a standby that stands still grows', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-lag-'))
  const rows = table(['lsn', 'name', 'replayed'], [['200', 'pg02', '100']])
  const postgres = await fakeConsole(join(dir, '.s.PGSQL.5432'), '', rows)
  const flags = [`--postgres-socket-dir=${dir}`, '--postgres-port=5432', '--standby-max-lag=1s']
  const { config } = load('supervise', flags, { PGCM_CONFIG_FILE: '/dev/null' })
  const self = { name: hostname(), online: true, role: 'Promoted', status: 'PRI', dataStatus: 'LATEST' }
  const view = { quorum: true, epoch: { promoted: 0, of: {} }, nodes: [self, { name: 'pg02' }] }
  const told: (number | undefined)[] = []
  const etcd = {
    async replace() {
      told.push(lag.lags().get('pg02')?.least)
      throw new Error('etcd does not answer')
    },
  }
  const sources = {
    ...{ etcd: etcd as never, view: () => view as unknown as ClusterView },
    known: () => ({ '/laggards': value('["gone"]') }),
  }
  const stop = new AbortController()
  const lag = watchLag(config, sources, stop.signal)
  try {
    await until('it was told three times', { timeoutMs: 30_000 }, () => told.length >= 3)
    assert.ok(Number(told[2]) > Number(told[1]), String(told))
  } finally {
    stop.abort()
    await lag.ended
    postgres.close()
    rmSync(dir, { recursive: true })
  }
})

test.run()
