import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { primaryOf } from '../lib/cluster.ts'
import { view } from '../lib/crmmon.ts'
import { scored } from '../lib/pacemaker.ts'
import { afterPromotion, promotedEpoch } from '../lib/promotion.ts'

const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const fixture = (name: string) => readFileSync(new URL(`./fixtures/${name}.xml`, import.meta.url), 'utf8')
const seen = view(fixture('trixie-healthy.crm_mon'), fixture('trixie-healthy.cib'), names)
/** What pg03, the primary of the fixture, knew before: pg02 was primary of epoch 170, and itself a standby. */
const before = {
  ...seen,
  epoch: { promoted: 170, of: { pg01: 169, pg02: 170 } },
  nodes: seen.nodes.map((node) => ({ ...node, role: node.name === 'pg02' ? 'Promoted' : 'Unpromoted' })),
}

test('the agent tells of a promotion in a file', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'promotion-'))
  const file = join(dir, 'pgcm-Postgresql', 'promoted')
  mkdirSync(dirname(file))
  process.env.HA_RSCTMP = dir
  try {
    assert.is(await promotedEpoch(names), null, 'none')
    writeFileSync(file, '8466311 00000000050000A0 171\n')
    assert.is(await promotedEpoch(names), 171)
    for (const half of [
      '',
      '8466311',
      '8466311 00000000050000A0',
      '8466311 00000000050000A0 171',
      'x y 171\n',
    ]) {
      writeFileSync(file, half)
      assert.is(await promotedEpoch(names), null, JSON.stringify(half))
    }
  } finally {
    delete process.env.HA_RSCTMP
    rmSync(dir, { recursive: true })
  }
})

test('right after its promotion a node knows that it is primary', () => {
  const after = afterPromotion(before, 171, 'pg03')
  assert.ok(after)
  assert.is(primaryOf(after)?.name, 'pg03')
  assert.is(after.epoch.promoted, 171)
  assert.equal(
    after.nodes.map(({ role }) => role),
    ['Unpromoted', 'Unpromoted', 'Promoted'],
  )
})

test('where anything is in doubt it waits for Pacemaker', () => {
  const with03 = (change: object) => ({
    ...before,
    nodes: before.nodes.map((node) => (node.name === 'pg03' ? { ...node, ...change } : node)),
  })
  assert.is(afterPromotion({ ...before, quorum: false }, 171, 'pg03'), null, 'no quorum')
  assert.is(afterPromotion(with03({ online: false }), 171, 'pg03'), null, 'not a member')
  assert.is(afterPromotion(with03({ unclean: true }), 171, 'pg03'), null, 'to be fenced')
  assert.is(afterPromotion(with03({ role: 'Stopped' }), 171, 'pg03'), null, 'nothing runs there')
  assert.is(afterPromotion(before, 170, 'pg03'), null, "another's epoch")
  assert.is(afterPromotion(before, 163, 'pg03'), null, 'an older epoch')
  assert.is(afterPromotion(seen, 171, 'pg03'), null, 'it is known already')
  assert.is(afterPromotion(before, 171, 'pg09'), null, 'no such node')
})

test('the constraint of a move is needed until the scores say the same', () => {
  const scores = (...values: (number | null)[]) => ({
    ...seen,
    nodes: seen.nodes.map((node, i) => ({ ...node, score: values[i] ?? null })),
  })
  assert.ok(scored(seen))
  assert.ok(scored(scores(100, -1_000_000, 1000)))
  assert.ok(scored(scores(1000, null, 1000)), 'the former primary has not told its own yet: the role stays')
  assert.not(scored(scores(1000, 10, 100)), 'the new primary has not told its own yet')
  assert.not(scored(scores(null, null, null)), 'nobody has said anything')
  assert.not(scored({ ...seen, nodes: seen.nodes.map((node) => ({ ...node, role: 'Unpromoted' })) }))
})

test.run()
