// deadline: 600 s
/** `sync_method` any: both standbys count, one of them is enough. What holds for `first` holds here, and nobody stalls. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cure, healthy, primary, primaryWithin, syncMethod } from './cluster.ts'
import { killPostmaster, nodes, playground, signalPostgres } from './machines.ts'
import { failover, followed, moved, rejoin } from './moves.ts'
import { note, scenario, underLoad } from './scenario.ts'

const ms = Math.round

scenario(
  'sync_method is changed to any: PostgreSQL is restarted everywhere, and nothing is lost',
  120,
  async () => {
    await underLoad(async (load) => {
      const since = load.now()
      await syncMethod('any', 60_000)
      assert.ok(await load.commitAfter(10_000))
      note(`sync_method changed: gap ${ms(load.figures(since).longestGapMs)} ms`)
    })
  },
)

scenario('a standby that hangs, whichever it is, stalls no commit', 90, async () => {
  const name = (await primary()) as string
  await underLoad(async (load) => {
    for (const standby of nodes.filter((node) => node !== name)) {
      const since = load.now()
      await signalPostgres(standby, 'STOP')
      try {
        assert.ok(await load.commitAfter(1_000, since + 1_000), `commits go on while ${standby} hangs`)
      } finally {
        await signalPostgres(standby, 'CONT')
      }
      const { longestGapMs } = load.figures(since)
      note(`any, ${standby} hangs: longest gap ${ms(longestGapMs)} ms`)
      assert.ok(longestGapMs < 1_000, `a gap of ${longestGapMs} ms`)
      await healthy(30_000)
    }
  })
})

scenario('under load the primary moves without an error, and back', 120, async () => {
  const report = await underLoad(async (load) => {
    for (let round = 0; round < 2; round++) {
      const old = (await primary()) as string
      const to = nodes.find((node) => node !== old) as string
      const since = load.now()
      await failover('--to', to)
      await moved(to)
      assert.ok(await load.commitAfter(2_000))
      note(`any, planned: gap ${ms(load.figures(since).longestGapMs)} ms`)
      await rejoin(old)
      await healthy(30_000)
    }
  })
  assert.equal(report.errorKinds, {})
})

for (const [fault, break_] of [
  ['its postmaster is killed', killPostmaster],
  ['it loses power', (machine: string) => playground('kill', [machine])],
] as const) {
  scenario(`the primary is lost, as ${fault}: no acknowledged commit is`, 120, async () => {
    const old = (await primary()) as string
    await underLoad(async (load) => {
      const since = load.now()
      await break_(old)
      const name = await primaryWithin(20_000, old)
      await followed(name, 5_000)
      assert.ok(await load.commitAfter(10_000))
      note(`any, ${fault}: gap ${ms(load.figures(since).longestGapMs)} ms`)
    })
    await cure()
  })
}

scenario('and back to first', 120, async () => {
  await syncMethod('first', 60_000)
})

test.run()
