// deadline: 600 s
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cure, healthy, primary, primaryWithin, turnOn } from './cluster.ts'
import { bouncers, inside, killPostmaster, playground, psql } from './machines.ts'
import { followed } from './moves.ts'
import { note, scenario, underLoad } from './scenario.ts'

scenario(
  'kill -9 of the postmaster: a standby takes over within 20 s, everything follows, nothing is lost',
  120,
  async () => {
    const report = await underLoad(async (load) => {
      const old = (await primary()) as string
      await killPostmaster(old)
      const since = load.now()
      const name = await primaryWithin(20_000, old)
      await followed(name, 10_000)
      assert.ok(await load.commitAfter(10_000, since + 1_000))
      const { longestGapMs } = load.figures(since - 100)
      note(`postmaster killed: ${old} -> ${name}, gap ${Math.round(longestGapMs)} ms`)
      await inside(old, ['pgcm-rejoin', '--yes'], { timeoutMs: 60_000 })
      await healthy(30_000)
    })
    note(`postmaster killed: ${report.errors} errors, 0 missing`)
  },
)

scenario(
  'the plug of the primary is pulled: a standby takes over within 30 s, everything follows, nothing is lost',
  180,
  async () => {
    const old = (await primary()) as string
    const through = bouncers.filter((machine) => machine !== old)
    const report = await underLoad(
      async (load) => {
        await playground('kill', [old])
        const since = load.now()
        const name = await primaryWithin(30_000, old)
        await followed(name, 10_000)
        for (const path of through)
          assert.ok(await load.commitAfter(10_000, since + 1_000, path), `commits through ${path}`)
        const { longestGapMs } = load.figures(since - 1_000)
        note(`plug pulled: ${old} -> ${name}, gap ${Math.round(longestGapMs)} ms`)
        await turnOn(old)
        await cure(120_000)
        assert.is(await psql(old, 'select pg_is_in_recovery()'), 't')
      },
      { through },
    )
    note(`plug pulled: ${report.errors} errors, 0 missing`)
  },
)

test.run()
