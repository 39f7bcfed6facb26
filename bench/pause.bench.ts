// no playground
/**
 * `npm run bench pause`: from the first word to the last PgBouncer held, by the step of pgcm-failover itself, with 3
 * and with 200 proxies on loopback. What a PgBouncer takes for its PAUSE is the same fixed time for each.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Api, connect } from '../lib/api.ts'
import type { Run, Times } from '../lib/run.ts'
import { pause } from '../lib/steps.ts'
import { now } from '../lib/wait.ts'
import { stats } from './stats.ts'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '20' },
    cost: { type: 'string', default: '5' },
    json: { type: 'boolean', default: false },
  },
})
const [runs, costMs] = [Number(values.runs), Number(values.cost)]
const FEW = 3
const MANY = 200
/** More than this a proxy, and 200 of them would be noticed. */
const GOAL_MS = 1

/** The addresses, and the process that serves them; it ends with its stdin. */
async function poolers(count: number): Promise<{ addresses: string[]; child: ChildProcess }> {
  const file = fileURLToPath(new URL('poolers.ts', import.meta.url))
  const words = ['--import', 'tsx', file, String(count), String(costMs)]
  const child = spawn(process.execPath, words, { stdio: ['pipe', 'pipe', 'inherit'] })
  for await (const line of createInterface({ input: child.stdout }))
    return { addresses: JSON.parse(line), child }
  throw new Error(`the ${count} proxies did not start`)
}

async function measure(count: number): Promise<number[]> {
  const { addresses, child } = await poolers(count)
  const apis: Api[] = addresses.map((address) => connect(address, null))
  const times = { pauseTimeout: 5000, pauseExpiry: 10_000 } as Times
  const run = { poolers: apis, owner: 'bench' } as Run
  const step = pause(times)
  const found: number[] = []
  try {
    // As in a failover: each was asked for its status before, so it is connected.
    await Promise.all(apis.map((api) => api.healthCheck({ deadlineMs: 10_000 })))
    for (let i = 0; i < runs + 3; i++) {
      const began = now()
      await step.run?.(run, new AbortController().signal, () => {})
      if (i >= 3) found.push(now() - began) // the first ones warm up
      await Promise.all(apis.map((api) => api.resume({ deadlineMs: 10_000 })))
    }
  } finally {
    for (const api of apis) api.close()
    child.stdin?.end()
  }
  return found
}

const few = stats(await measure(FEW))
const many = stats(await measure(MANY))
const perProxy = Number(((many.median - few.median) / (MANY - FEW)).toFixed(2))
const result = {
  runs,
  cost_ms: costMs,
  held_ms: { [FEW]: few, [MANY]: many },
  ms_per_proxy: perProxy,
  goal_ms: GOAL_MS,
}
console.error(
  `all held, median and worst of ${runs}: ${FEW} proxies ${few.median} and ${few.worst} ms, ${MANY} proxies ${many.median} and ${many.worst} ms; ${perProxy} ms a proxy`,
)
if (values.json) console.log(JSON.stringify(result))
process.exit(perProxy <= GOAL_MS ? 0 : 1)
