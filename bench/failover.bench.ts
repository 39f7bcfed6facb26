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
  /** The longest gap after that one, until a second after the end of the command, which has rejoined the old primary. */
  secondGapMs: number
  /** The same of a stretch as long in which nothing happens: what this machine does by itself. */
  quietGapMs: number
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
        const command = ['pgcm-failover', '--yes', '--rejoin']
        const { elapsedMs } = await inside('app01', command, { timeoutMs: 60_000 })
        // Nothing asks the machines meanwhile: their CPU is what is measured.
        await load.commitAfter(5_000, load.now() + 1_000)
        const { longestGapMs: gapMs, gapAt } = load.figures(began)
        const { longestGapMs: secondGapMs } = load.figures(gapAt + gapMs)
        const routedMs = await routed(to, start)
        await healthy(60_000)
        const quietSince = load.now()
        await load.commitAfter(60_000, quietSince + load.now() - began - gapMs)
        const { longestGapMs: quietGapMs } = load.figures(quietSince)
        all.push({ gapMs, secondGapMs, quietGapMs, commandMs: elapsedMs, routedMs })
        tell(
          `failover ${run}/${runs}: ${old} -> ${to}, gap ${Math.round(gapMs)} ms, routed ${Math.max(...routedMs)} ms, rejoin ${Math.round(secondGapMs)} ms, quiet ${Math.round(quietGapMs)} ms, command ${elapsedMs} ms`,
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
  quiet_gap_ms: stats(all.map((run) => run.quietGapMs)),
  routed_ms: stats(all.flatMap((run) => run.routedMs)),
  command_ms: stats(all.map((run) => run.commandMs)),
  floor_ms: floors.median,
  handover_ms: handovers.median,
  ratio: Number((gap.median / (floors.median + handovers.median)).toFixed(2)),
}
if (values.json) console.log(JSON.stringify(result))
else console.log(result)
