/**
 * pgcm-status --simulate: what Pacemaker would do about every single and every double loss, by its own crm_simulate. It
 * finds constraints and scores under which nobody may be promoted though a quorum is left, before the day of the loss.
 */
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Names } from './cluster.ts'
import { colour } from './colour.ts'
import type { Config } from './config.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import {
  doubleLosses,
  type Loss,
  loseCommand,
  lossText,
  nodesLeft,
  type Standing,
  scoreCommand,
  settleCommand,
  singleLosses,
  standing,
  withoutCommand,
} from './losses.ts'
import { type ShOptions, sh } from './sh.ts'
import type { Out } from './view.ts'
import { type Element, find, parseXml } from './xml.ts'

const AT_ONCE = 2 // it may run beside a PostgreSQL that is at work
const COMMAND_MS = 30_000 // it takes 50 ms; a machine in trouble is given its time
const TOTAL_MS = 120_000

/** A loss after which nobody is primary, and the constraints each of which alone is the reason. */
export interface Finding {
  lost: Loss[]
  left: number
  constraints: string[]
}

export interface Simulation {
  primary: string | null
  nodes: number
  /** Machines that are there, but PostgreSQL is stopped: they can take over nothing. */
  stopped: string[]
  simulated: number
  /** Losses that leave no quorum: then the cluster stops on purpose. */
  withoutQuorum: number
  /** The smallest ones: a double loss that contains one of them is not repeated. */
  findings: Finding[]
}

type Command = (argv: string[], options?: ShOptions) => Promise<string>

/** Runs jobs, a few at once; gives their results in order. The first error ends it. */
async function few<T, R>(items: T[], job: (item: T, index: number) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  const queue = items.entries()
  const lane = async () => {
    for (const [i, item] of queue) results[i] = await job(item, i)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, lane))
  return results
}

/**
 * The CIB with the scores that the agent sets once there is no primary. It gives each standby that runs a score above 0 then, so
 * what a standby has now says nothing about the time after a loss; the better ones stay the better ones.
 */
async function withScores(
  file: string,
  { running }: Standing,
  resource: string,
  command: Command,
): Promise<void> {
  const cib = parseXml(await readFile(file, 'utf8'), 'cib')
  const env = { ...process.env, CIB_file: file }
  for (const { node } of running.filter(({ ours, promoted }) => ours && !promoted)) {
    const score = find(cib, 'status', 'node_state')
      .filter(({ attributes }) => attributes.uname === node)
      .flatMap((state) => find(state, 'transient_attributes', 'instance_attributes', 'nvpair'))
      .find(({ attributes }) => attributes.name === `master-${resource}`)?.attributes.value
    if (!/^[1-9]/.test(score ?? '')) await command(scoreCommand(resource, node, 10), { env })
  }
}

/** Ids of whatever may keep a resource away from a node. */
const constraintsOf = (cib: Element): string[] =>
  Object.values(find(cib, 'configuration', 'constraints')[0]?.children ?? {})
    .flat()
    .flatMap(({ attributes }) => attributes.id ?? [])

/**
 * Tries every loss on a CIB. Nothing live is touched.
 * @throws Refused where the CIB is not one to ask
 * @throws Failed where crm_simulate fails or the time is over
 */
export async function simulate(text: string, names: Names, signal: AbortSignal): Promise<Simulation> {
  const cib = parseXml(text, 'cib')
  if (
    !find(cib, 'configuration', 'resources', 'clone').some(({ attributes }) => attributes.id === names.clone)
  )
    throw new Refused(`the CIB has no clone ${names.clone}`, '--pacemaker-clone gives its name.')
  if (cib.attributes['have-quorum'] !== '1')
    throw new Refused('the CIB is of a node without quorum: it may be old', 'Ask a node that has quorum.')

  const dir = await mkdtemp(join(tmpdir(), 'pgcm-simulate-')) // 0700: a CIB may hold the passwords of fence devices
  const command: Command = async (argv, options) =>
    (await sh(argv, { timeoutMs: COMMAND_MS, signal, ...options })).stdout
  let counter = 0
  const scratch = () => join(dir, `${counter++}.xml`)
  try {
    const base = scratch()
    await writeFile(base, text, { mode: 0o600 })
    const printed = await command(settleCommand(base))
    const today = standing(printed, 'cluster_status', names)
    const { primary } = standing(printed, 'revised_cluster_status', names)
    const nodes = nodesLeft(cib, today, []).of
    const runs = (node: string) => today.running.some((instance) => instance.ours && instance.node === node)
    const stopped = today.online.filter((node) => !runs(node))
    const result: Simulation = { primary, nodes, stopped, simulated: 0, withoutQuorum: 0, findings: [] }
    if (primary === null) return result
    await withScores(base, today, names.resource, command)

    const survives = async (from: string, lost: Loss[]): Promise<boolean> => {
      const outcome = scratch()
      await command(loseCommand(from, lost, outcome))
      const end = await command(settleCommand(outcome))
      await rm(outcome)
      return standing(end, 'revised_cluster_status', names).primary !== null
    }
    const singles = singleLosses(cib, today)
    const fatal: Loss[][] = []
    for (const losses of [singles.map((loss) => [loss]), doubleLosses(singles)]) {
      const worth = losses.filter((lost) => nodesLeft(cib, today, lost).quorum)
      result.withoutQuorum += losses.length - worth.length
      result.simulated += worth.length
      const known = fatal.flat()
      const fresh = worth.filter((lost) => !lost.some((loss) => known.includes(loss)))
      const survived = await few(fresh, (lost) => survives(base, lost))
      fatal.push(...fresh.filter((_, i) => !survived[i]))
    }
    const without = await few(fatal.length > 0 ? constraintsOf(cib) : [], async (id) => {
      const file = scratch()
      await copyFile(base, file)
      await command(withoutCommand(id), { env: { ...process.env, CIB_file: file } })
      return { id, file }
    })
    result.findings = await few(fatal, async (lost) => {
      const constraints: string[] = []
      for (const { id, file } of without) if (await survives(file, lost)) constraints.push(id)
      return { lost, left: nodesLeft(cib, today, lost).left, constraints }
    })
    return result
  } catch (error) {
    if (!signal.aborted) throw error
    throw new Failed(`not all losses could be simulated in ${TOTAL_MS / 1000} s`, 'Nothing was touched.')
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** The CIB of a file, or of the cluster that this machine is a node of. */
async function readCib(file: string): Promise<string> {
  if (file !== '') {
    try {
      const text = await readFile(file, 'utf8')
      parseXml(text, 'cib')
      return text
    } catch (error) {
      throw new Refused(
        `${file} is no CIB: ${messageOf(error)}`,
        'cibadmin --query > FILE makes one, on a Postgres node.',
      )
    }
  }
  try {
    return (await sh(['cibadmin', '--query'], { timeoutMs: COMMAND_MS })).stdout
  } catch (error) {
    throw new Refused(
      `no CIB on this machine: ${messageOf(error)}`,
      'Run it on a Postgres node, as root; or give what cibadmin --query printed there with --cib-file.',
    )
  }
}

function report({ primary, nodes, stopped, simulated, withoutQuorum, findings }: Simulation): string {
  if (primary === null)
    return `${colour.yellow('!')} without any loss, nobody is primary or becomes it: cure that first\n`
  const lines = findings.map(({ lost, left, constraints }) => {
    const why =
      constraints.length > 0 ? `; not so without constraint ${constraints.join(', or without ')}` : ''
    return `${colour.yellow('!')} no primary after the loss of ${lost.map(lossText).join(' and ')}, though ${left} of ${nodes} nodes are left${why}\n`
  })
  if (findings.length > 0 && stopped.length > 0)
    lines.push(`PostgreSQL does not run on ${stopped.join(' and ')}, which can take over nothing\n`)
  const all = findings.length === 0 ? 'each ends with a primary' : `${findings.length} end without a primary`
  lines.push(
    `${simulated} single and double losses simulated: ${all}; ${withoutQuorum} more leave no quorum\n`,
  )
  return lines.join('')
}

/** Prints what was found. Gives the exit code: 0 where every loss ends with a primary, 1 where one does not. */
export async function simulation(config: Config, out: Out): Promise<number> {
  const names = { resource: config.pacemakerResource, clone: config.pacemakerClone }
  const { code } = await sh(['crm_simulate', '--version'], { okCodes: [0, 127] })
  if (code === 127) throw new Refused('crm_simulate is not installed', 'apt-get install pacemaker-cli-utils')
  const found = await simulate(await readCib(config.cibFile), names, AbortSignal.timeout(TOTAL_MS))
  const healthy = found.primary !== null && found.findings.length === 0
  if (config.json) {
    const findings = found.findings.map(({ lost, ...rest }) => ({ lost: lost.map(lossText), ...rest }))
    out.write(`${JSON.stringify({ healthy, ...found, findings })}\n`)
  } else out.write(report(found))
  return healthy ? 0 : 1
}
