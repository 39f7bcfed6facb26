/** `npm run bench failover`: planned failovers under load, and what they cost without our part, in the same run. */
import { parseArgs } from 'node:util'
import { cure, healthy, primary, standby } from '../test/cluster/cluster.ts'
import { inside } from '../test/cluster/machines.ts'
import { underLoad } from '../test/cluster/scenario.ts'
import { floor } from './floor.ts'
import { handover } from './handover.ts'
import { routed } from './routing.ts'
import { stats } from './stats.ts'

const { values } = parseArgs({
  options: { runs: { type: 'string', default: '20' }, json: { type: 'boolean', default: false } },
})
const runs = Number(values.runs)
const tell = (text: string) => console.error(text)

interface Run {
  gapMs: number
  /** The longest gap from the failover's end to the healthy cluster: the old primary was rejoined meanwhile. */
  secondGapMs: number
  commandMs: number
  /** From the promotion to each PgBouncer's new address. */
  routedMs: number[]
}

async function failovers(): Promise<{ all: Run[]; errors: number; missing: number }> {
  const all: Run[] = []
  const report = await underLoad(
    async (load) => {
      for (let run = 1; run <= runs; run++) {
        const old = (await primary()) as string
        const to = await standby('HS:sync')
        const began = load.now()
        const start = new Date()
        const { elapsedMs } = await inside('app01', ['pgcm-failover', '--yes'], { timeoutMs: 60_000 })
        await load.commitAfter(5_000)
        const { longestGapMs: gapMs } = load.figures(began)
        const routedMs = await routed(to, start)
        const rejoining = load.now()
        await inside(old, ['pgcm-rejoin', '--yes'], { timeoutMs: 60_000 })
        await healthy(60_000)
        const { longestGapMs: secondGapMs } = load.figures(rejoining)
        all.push({ gapMs, secondGapMs, commandMs: elapsedMs, routedMs })
        tell(
          `failover ${run}/${runs}: ${old} -> ${to}, gap ${Math.round(gapMs)} ms, routed ${Math.max(...routedMs)} ms, rejoin ${Math.round(secondGapMs)} ms, command ${elapsedMs} ms`,
        )
      }
    },
    { maxMs: 3_600_000 },
  )
  return { all, errors: report.errors, missing: report.missing }
}

await cure()
const { all, errors, missing } = await failovers()
const floors = stats(await floor(runs, tell))
const handovers = stats(await handover(runs, tell))
const gap = stats(all.map((run) => run.gapMs))
const second = stats(all.map((run) => run.secondGapMs))
await cure()

const result = {
  runs,
  errors,
  missing,
  gap_ms: gap,
  rejoin_gap_ms: second,
  routed_ms: stats(all.flatMap((run) => run.routedMs)),
  command_ms: stats(all.map((run) => run.commandMs)),
  floor_ms: floors.median,
  handover_ms: handovers.median,
  ratio: Number((gap.median / (floors.median + handovers.median)).toFixed(2)),
}
if (values.json) console.log(JSON.stringify(result))
else console.log(result)
