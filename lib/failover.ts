/** pgcm-failover: moves the primary to a standby without an error for any client. */
import { hostname } from 'node:os'
import { confirm } from './ask.ts'
import { explained } from './blockers.ts'
import { run } from './cli.ts'
import type { Config } from './config.ts'
import { messageOf, Refused } from './errors.ts'
import { abortOnSignals, pipeline, type Step } from './pipeline.ts'
import { judge, judgeAgain, planRun, poolersOf } from './preflight.ts'
import { gist, receipt, wayOut } from './receipt.ts'
import type { Run, Times } from './run.ts'
import { checkpoint, lock, look, migrate, pause, resume, routed } from './steps.ts'
import { chooseTarget, type Member, primaryOf, type Survey } from './survey.ts'
import { tableOf, topology } from './topology.ts'
import { kindOf, type Out, viewOf } from './view.ts'
import { connectWorld, type Surroundings } from './world.ts'

/**
 * The procedure. Undone, last first, whatever happens: unmigrate, resume, unlock. Where all goes well `resume` has
 * been done by then, so clients do not wait until the constraint is removed. Where it does not, the constraint goes
 * first, so that nobody is let go onto a primary that is about to be moved.
 */
export const procedure = (times: Times): Step<Run>[] => [
  lock(times),
  look,
  checkpoint,
  pause(times),
  migrate(times),
  routed,
  resume,
]

export interface Scene {
  config: Config
  world: Surroundings
  out: Out
  stdin: { isTTY?: boolean | undefined }
  env: NodeJS.ProcessEnv
  interrupts?: typeof abortOnSignals
}

export async function failover(scene: Scene): Promise<void> {
  const { config, world, out, stdin, env, interrupts = abortOnSignals } = scene
  const times = timesOf(config)
  const steps = procedure(times)
  const shown = steps.map(({ name, undo }) => ({ name, ...(undo && { undo: undo.name }) }))
  const view = viewOf(kindOf(out, config.json, env), out, shown)
  const show = (survey: Survey) => {
    view.say(tableOf(topology(survey)))
    view.record({ event: 'topology', rows: topology(survey) })
  }

  const before = await world.survey()
  show(before)
  const plan = {
    target: targetOf(before, config.to),
    pauseExpiryMs: times.pauseExpiry,
    maxLagBytes: config.maxLag * 2 ** 20,
  }
  judge(before, plan, view)
  if (config.check) return
  const [from, target] = [primaryOf(before), plan.target] as [Member, Member] // or judge() had thrown
  if (!config.dryRun)
    await confirm(`Move the primary from ${from.name} to ${target.name}?`, { ...stdin, yes: config.yes })
  view.say(wayOut(times))

  const { signal, abort, dispose } = interrupts()
  const run: Run = {
    ...planRun(before, from, target, times),
    world,
    owner: `pgcm-failover ${hostname()} ${process.pid}`,
    abort,
    async lookAgain() {
      const survey = await world.survey()
      judgeAgain(survey, plan, from)
      run.poolers = poolersOf(survey)
    },
  }
  const began = new Date()
  try {
    const timings = await pipeline(steps, run, { signal, on: view.on, dryRun: config.dryRun })
    await view.close()
    if (config.dryRun) return
    const after = await world.survey()
    show(after)
    const record = receipt(run, timings, began, after)
    view.say(record.text)
    view.record(record.fields)
    await world.keep(record.fields)
  } catch (thrown) {
    await view.close()
    const error = await explained(thrown, from.api)
    view.record({ event: 'receipt', ok: false, error: messageOf(error), ...gist(run, began) })
    throw error
  } finally {
    dispose()
  }
}

/** Undefined where there is none, which the checks explain; a --to that cannot be is refused at once. */
function targetOf(survey: Survey, wanted: string): Member | undefined {
  try {
    return chooseTarget(survey, wanted)
  } catch (error) {
    if (wanted && primaryOf(survey)) throw error
    return undefined
  }
}

function timesOf(config: Config): Times {
  const { lockTimeout, pauseTimeout, pauseExpiry, resumeTimeout, pacemakerTimeout, maxPause } = config
  if (pauseExpiry <= pauseTimeout)
    throw new Refused('pause-expiry must be longer than pause-timeout', 'The move has what is left of it.')
  return { lockTimeout, pauseTimeout, pauseExpiry, resumeTimeout, pacemakerTimeout, maxPause }
}

export const main = () =>
  run('failover', async (config, _, io) => {
    const world = connectWorld(config)
    try {
      await failover({ config, world, out: io.stdout, stdin: io.stdin, env: io.env })
    } finally {
      await world.close()
    }
  })
