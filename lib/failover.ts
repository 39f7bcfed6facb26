/** pgcm-failover: moves the primary to a standby without an error for any client. */
import { hostname } from 'node:os'
import { confirm } from './ask.ts'
import { explained } from './blockers.ts'
import { run } from './cli.ts'
import { type Config, formatDuration } from './config.ts'
import { type Drain, doomedBy, drain, parseDrain } from './drain.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { aftermathOf, baseFor, foundLines, undoing } from './killedrun.ts'
import { LONGEST_CALL_MS, LONGEST_EXPIRY_MS } from './options.ts'
import { describe } from './pgbouncer.ts'
import { abortOnSignals, pipeline, type Step } from './pipeline.ts'
import { judge, judgeAgain, planRun, question } from './preflight.ts'
import { began, failed, type Receipt, receipt, receiptText, stopwatch, wayOut } from './receipt.ts'
import type { Run, Times } from './run.ts'
import * as steps from './steps.ts'
import { chooseTarget, clusterOf, type Member, ownerName, primaryOf, type Survey } from './survey.ts'
import { tableOf, topology } from './topology.ts'
import { kindOf, type Out, type View, viewOf } from './view.ts'
import { now, sleep, within } from './wait.ts'
import { connectWorld, type Surroundings } from './world.ts'

/**
 * The procedure. Undone, last first, whatever happens: unmigrate, resume, unlock. Where all goes well `resume` has
 * been done by then, so clients do not wait until the constraint is removed. Where it does not, the constraint goes
 * first, so that nobody is let go onto a primary that is about to be moved. Only before `migrate` clients are let go
 * sooner: the demotion waits.
 */
export const procedure = (times: Times, asked: { drain: Drain; rejoin: boolean }): Step<Run>[] => [
  steps.lock(times),
  steps.look,
  steps.checkpoint,
  ...(asked.drain.how === 'none' ? [] : [drain(asked.drain, times)]),
  steps.prepare(times),
  steps.pause(times),
  steps.migrate(times),
  steps.promoted,
  steps.resume,
  ...(asked.rejoin ? [steps.unmigrate, steps.rejoin(times)] : []),
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
  let undone = false
  const onUndone = () => {
    undone = true
  }
  await attempt(scene, onUndone).catch((error) => {
    if (!undone || !(error instanceof Refused)) throw error
    // Refused means that nothing was touched, which is no longer so.
    const holds = 'What the killed run had left is undone; nothing else was touched.'
    throw new Failed(messageOf(error), [error.hint, holds].filter(Boolean).join(' '), { cause: error })
  })
}

async function attempt(scene: Scene, onUndone: () => void): Promise<void> {
  const { config, world, stdin, interrupts = abortOnSignals } = scene
  const times = timesOf(config)
  const asked = { drain: parseDrain(config.drain), rejoin: config.rejoin }
  const procedureNow = procedure(times, asked)
  const view = viewFor(scene, procedureNow)

  const before = await surveyed(scene, view, times, onUndone)
  const plan = {
    target: targetOf(before, config.to),
    pauseExpiryMs: times.pauseExpiry,
    maxLagBytes: config.maxLag * 2 ** 20,
  }
  const warnings = judge(before, plan, view)
  if (config.check) return
  const [from, target] = [primaryOf(before), plan.target] as [Member, Member] // or judge() had thrown
  const doomed = await doomedBy(asked.drain, from.api, config.healthCheckTimeout)
  for (const each of doomed) view.say(`to be ended: ${describe(each)} (pid ${each.pid})`)
  if (doomed.length > 0) view.record({ event: 'doomed', transactions: doomed })
  if (!config.dryRun) await confirm(question(from, target, doomed, warnings), { ...stdin, yes: config.yes })
  view.say(wayOut(times))

  const { signal, abort, dispose } = interrupts()
  const at = new Date()
  const watch = stopwatch()
  let remembered: Promise<void> | undefined
  const run: Run = {
    ...planRun(before, from, target, times),
    doomed,
    world,
    owner: ownerName(hostname(), process.pid),
    abort,
    async lookAgain() {
      const survey = await world.survey()
      Object.assign(run, planRun(survey, from, judgeAgain(survey, plan, from), times))
      await remembered // before clients are held: whoever kills this shall find it
    },
  }
  const remember = (record: Receipt) => keep(world, record, view)
  try {
    await pipeline(procedureNow, run, {
      signal,
      dryRun: config.dryRun,
      on: (event) => {
        watch.on(event)
        view.on(event)
        if (event.event === 'done' && event.step === 'lock') remembered = remember(began(run, at))
      },
    })
    await view.close()
    if (config.dryRun) return
    const after = await settled(world)
    show(view, after)
    const record = receipt(run, at, watch.steps, after)
    view.say(receiptText(run, record))
    view.record(record)
    await remembered
    await remember(record)
  } catch (thrown) {
    await view.close()
    const error = await explained(thrown, from.api)
    const record = failed(run, at, watch.steps, error)
    view.record(record)
    if (remembered) await remembered.then(() => remember(record))
    throw error
  } finally {
    dispose()
  }
}

function viewFor({ config, out, env }: Scene, of: { name: string }[]): View {
  return viewOf(kindOf(out, config.json, env), out, of)
}

function show(view: View, survey: Survey): void {
  view.say(tableOf(topology(survey)))
  view.record({ event: 'topology', rows: topology(survey) })
}

/** What is there, once what a killed run has left is undone. */
async function surveyed(scene: Scene, view: View, times: Times, onUndone: () => void): Promise<Survey> {
  const { config, world, stdin, interrupts = abortOnSignals } = scene
  const survey = await world.survey()
  show(view, survey)
  const found = aftermathOf(survey)
  if (!found) return survey
  const last = (await world.history().catch(() => [])).at(-1) as Receipt | undefined
  const lines = foundLines(found, survey, last)
  for (const line of lines) view.say(line)
  view.record({ event: 'aftermath', lines })
  if (config.check || config.dryRun) return survey
  await confirm('Undo what it left?', { ...stdin, yes: config.yes })
  const undo = undoing(times, found)
  const undoView = viewFor(scene, undo)
  const { signal, abort, dispose } = interrupts()
  const base = { ...baseFor(survey, found), world, times, owner: ownerName(hostname(), process.pid), abort }
  try {
    await pipeline(undo, base, { signal, on: undoView.on }).finally(undoView.close)
    onUndone()
  } finally {
    dispose()
  }
  const after = await world.survey()
  show(view, after)
  return after
}

/** A failover is none the worse for not being remembered. */
const keep = (world: Surroundings, record: Receipt, view: View): Promise<void> =>
  within(5000, 'keeping the record', world.keep(record)).catch((error) =>
    view.say(`pgcm-status --history will not show this: ${messageOf(error)}`),
  )

/** The former primary says for a second or two that it still is one: its agent leaves the CPU to the clients first. */
const SETTLING_MS = 4000

/** Who is what once that is over. */
async function settled(world: Surroundings): Promise<Survey> {
  const start = now()
  for (;;) {
    const survey = await world.survey()
    const claims = clusterOf(survey)?.nodes.filter(({ status }) => status === 'PRI').length ?? 0
    if (claims <= 1 || now() - start > SETTLING_MS) return survey
    await sleep(250)
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

/** The demotion waits a little longer than the pauses may take. */
const LONGEST_PAUSE_MS = 12_000

function timesOf(config: Config): Times {
  const { lockTimeout, pauseTimeout, pauseExpiry, resumeTimeout, pacemakerTimeout, maxPause } = config
  const { drainTimeout, rejoinTimeout } = config
  if (pauseExpiry <= pauseTimeout)
    throw new Refused('pause-expiry must be longer than pause-timeout', 'The move has what is left of it.')
  if (pauseExpiry > LONGEST_EXPIRY_MS)
    throw new Refused(
      `pause-expiry is longer than ${LONGEST_EXPIRY_MS / 1000}s`,
      `Give ${LONGEST_EXPIRY_MS / 1000}s at most: no node holds its clients longer, as its daemon has to outlive the pause.`,
    )
  if (pauseTimeout > LONGEST_PAUSE_MS)
    throw new Refused(
      `pause-timeout is longer than ${LONGEST_PAUSE_MS / 1000}s`,
      'Pacemaker, which stands by meanwhile, does not wait longer; --drain=wait waits for long transactions.',
    )
  if (config.rejoin && rejoinTimeout > LONGEST_CALL_MS)
    throw new Refused(
      `rejoin-timeout is longer than ${formatDuration(LONGEST_CALL_MS)}`,
      'No node works longer for another; pgcm-rejoin there may.',
    )
  return {
    ...{ lockTimeout, pauseTimeout, pauseExpiry, resumeTimeout, pacemakerTimeout, maxPause },
    ...{ drainTimeout, rejoinTimeout },
  }
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
