/** pgcm-rejoin: brings a stopped former primary back as a standby, on that machine itself. */
import { dirname } from 'node:path'
import { confirm } from './ask.ts'
import { run } from './cli.ts'
import { colour } from './colour.ts'
import type { Config } from './config.ts'
import { type Cure, type Diagnosis, diagnose } from './diagnosis.ts'
import { alone } from './dirlock.ts'
import { Expected, Failed, messageOf, Refused } from './errors.ts'
import { type Local, localMachine } from './local.ts'
import { abortOnSignals, pipeline, type Step } from './pipeline.ts'
import { BeyondRewind } from './renewal.ts'
import { kindOf, type Out, type View, viewOf } from './view.ts'
import type { Relation } from './wal.ts'

/** One rejoining: what was found, and what follows. */
export interface Rejoining {
  local: Local
  primary: string
  address: string
  cure: Cure
  stale?: boolean | undefined
  relation?: Relation | undefined
  times: { rejoin: number; rewind: number }
}

/** The procedure. Nothing is undone: each step may be repeated, and until all are done PostgreSQL does not start. */
export const procedure = (cure: Cure, diverged: boolean, stale: boolean): Step<Rejoining>[] => {
  if (cure === 'tidy') return [stream, discard]
  return [
    ...(diverged ? [keepLost] : []),
    ...(cure === 'rewind' ? [...(stale ? [checkpoint] : []), rewind] : []),
    ...(cure === 'finish rewind' ? [settle] : []),
    ...(cure === 'base backup' ? [backUp] : []),
    ...(cure === 'base backup' || cure === 'finish swap' ? [swap] : []),
    ...[release, cleanUp, stream, discard],
  ]
}

const keepLost: Step<Rejoining> = {
  name: 'write down',
  describe: ({ local, relation }) => (relation?.kind === 'diverged' ? local.lostCommands(relation.fork) : []),
  async run({ local, relation, primary }, signal, tell) {
    if (relation?.kind === 'diverged') tell(await local.keepLost(relation.fork, primary, signal))
  },
}
const checkpoint: Step<Rejoining> = {
  name: 'checkpoint',
  describe: ({ primary }) => [`rpc checkpoint -> ${primary}`],
  run: ({ local, primary, address }, signal) => local.checkpoint(primary, address, signal),
}
const rewind: Step<Rejoining> = {
  name: 'rewind',
  describe: ({ local, address }) => local.rewindCommands(address),
  run: ({ local, address, times }, signal) => local.rewind(address, { timeoutMs: times.rewind, signal }),
}
const settle: Step<Rejoining> = {
  name: 'settle',
  describe: ({ local }) => local.settleCommands(),
  run: ({ local, times }, signal) => local.settle({ timeoutMs: times.rewind, signal }),
}
const backUp: Step<Rejoining> = {
  name: 'back up',
  describe: ({ local, address }) => local.backupCommands(address),
  run: ({ local, address, times }, signal) => local.backUp(address, { timeoutMs: times.rewind, signal }),
}
const swap: Step<Rejoining> = {
  name: 'swap',
  describe: ({ local }) => local.swapCommands(),
  run: ({ local }) => local.swap(),
}
const release: Step<Rejoining> = {
  name: 'release',
  describe: ({ local }) => [`rm -f ${local.agent.lockFile} ${local.agent.pendingFile}`],
  run: ({ local }) => local.release(),
}
const cleanUp: Step<Rejoining> = {
  name: 'clean up',
  describe: ({ local }) => local.cleanupCommands(),
  run: ({ local }) => local.cleanUp(),
}
const stream: Step<Rejoining> = {
  name: 'stream',
  describe: ({ times }) => [`wait until it streams, ${times.rejoin / 1000} s at most`],
  async run({ local, times }, signal, tell) {
    tell(await local.streams(times.rejoin, signal))
  },
}
const discard: Step<Rejoining> = {
  name: 'discard',
  describe: ({ local }) => local.discardCommands(),
  run: ({ local }) => local.discard(),
}

export interface Scene {
  config: Config
  local: Local
  out: Out
  stdin: { isTTY?: boolean | undefined }
  env: NodeJS.ProcessEnv
  interrupts?: typeof abortOnSignals
}

export async function rejoin(scene: Scene): Promise<void> {
  const { config, local, out, env, interrupts = abortOnSignals } = scene
  const { signal, dispose } = interrupts()
  const kind = kindOf(out, config.json, env)
  try {
    const found = await diagnose(local, signal)
    const steps = procedure(found.cure, found.relation?.kind === 'diverged', found.stale === true)
    const view = viewOf(
      kind,
      out,
      steps.map(({ name }) => ({ name })),
    )
    await cure(scene, found, steps, view, signal)
  } catch (error) {
    const { record } = viewOf(kind, out, [])
    const hint = error instanceof Expected ? error.hint : undefined
    record({ event: 'receipt', ok: false, node: local.node, error: messageOf(error), ...(hint && { hint }) })
    throw error
  } finally {
    dispose()
  }
}

async function cure(
  { config, local, stdin }: Scene,
  found: Diagnosis,
  steps: Step<Rejoining>[],
  view: View,
  signal: AbortSignal,
): Promise<void> {
  for (const line of found.evidence) view.say(line)
  view.say(`${colour.bold(found.verdict)}`)
  view.record({
    event: 'evidence',
    node: local.node,
    cure: found.cure,
    relation: found.relation,
    verdict: found.verdict,
    lines: found.evidence,
  })
  if (config.ifClean && found.cure !== 'none')
    throw new Refused(
      `${local.node} is not clean: ${found.verdict}`,
      `sudo pgcm-rejoin on ${local.node} does it; look at what it says first.`,
    )
  if (!config.dryRun)
    await confirm(`Rejoin ${local.node} to ${found.primary}?`, { ...stdin, yes: config.yes, signal })
  const state = { ...found, local, times: { rejoin: config.rejoinTimeout, rewind: config.rewindTimeout } }
  const timings = await pipeline(steps, state, { signal, on: view.on, dryRun: config.dryRun }).finally(
    view.close,
  )
  if (config.dryRun) return
  view.say(`${colour.green('done')}: ${local.node} streams from ${found.primary}`)
  view.record({
    event: 'receipt',
    ok: true,
    node: local.node,
    primary: found.primary,
    cure: found.cure,
    steps: timings,
  })
}

/** Once more, with a base backup, where pg_rewind itself has found out that it cannot. */
export async function rejoinAtLast(scene: Scene): Promise<void> {
  try {
    await rejoin(scene).catch(async (error) => {
      if (!(error instanceof BeyondRewind)) throw error
      await rejoin(scene).catch((again) => {
        // Refused means that nothing was touched, which is no longer so.
        throw again instanceof Refused ? new Failed(messageOf(again), again.hint, { cause: again }) : again
      })
    })
  } catch (error) {
    throw await halfWay(scene.local, error)
  }
}

/** Where a run has begun to change the data, its error says what holds from then on. */
async function halfWay(local: Local, error: unknown): Promise<unknown> {
  if (!(error instanceof Expected) || error instanceof Refused) return error
  const { mark } = await local.marks().catch(() => ({ mark: null }))
  if (mark === null) return error
  const hint = `PostgreSQL does not start on ${local.node} until pgcm-rejoin has come to its end there: run it again.`
  return new Failed(messageOf(error), [error.hint, hint].filter(Boolean).join(' '), { cause: error })
}

export const main = () =>
  run('rejoin', async (config, _, io) => {
    if (process.getuid?.() !== 0)
      throw new Refused('only root can do this', 'sudo pgcm-rejoin, on the stopped node.')
    const local = await localMachine(config).catch((error) => {
      if (!(error instanceof Expected)) throw error
      throw new Refused(messageOf(error), 'Do Corosync and Pacemaker run on this node?', { cause: error })
    })
    const unlock = await alone(dirname(local.agent.lockFile), 'pgcm-rejoin')
    await rejoinAtLast({ config, local, out: io.stdout, stdin: io.stdin, env: io.env }).finally(unlock)
  })
