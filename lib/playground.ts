import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { run } from './cli.ts'
import { colour } from './colour.ts'
import type { Config } from './config.ts'
import { Failed, Refused } from './errors.ts'
import * as cluster from './playground-cluster.ts'
import * as cuts from './playground-cuts.ts'
import * as fence from './playground-fence.ts'
import * as host from './playground-host.ts'
import { ensureImage, imageDir } from './playground-image.ts'
import type { Playground } from './playground-layout.ts'
import * as layout from './playground-layout.ts'
import { lock } from './playground-lock.ts'
import * as machines from './playground-machines.ts'
import * as network from './playground-network.ts'
import { say } from './playground-progress.ts'

type Given = Config & { sources: Record<string, string> }
type Verb = (given: Given, words: string[]) => Promise<number> | Promise<void>

const stopped = new AbortController()

/** The runbook: each step looks at what is there already, so that a second `up` goes on where the first one stood. */
const up: Verb = async (given) => {
  planOf(given) // refuses before anything is touched
  const held = locked(given.name)
  try {
    await host.installPackages(stopped.signal)
    const plan = settle(given)
    if (!existsSync(plan.image)) await ensureImage(plan.release, stopped.signal)
    await cluster.writeAccess(plan)
    host.raiseLimits()
    await network.bridgeUp(plan)
    await fence.startFence(plan)
    await bootAll(plan)
    const fresh = plan.provisioned === undefined
    const hash = cluster.hashOf(plan)
    if (given.bare) return say('the machines are up; no playbook was run')
    if (hash === plan.provisioned) say('nothing changed since the last playbook run, which is skipped')
    else {
      await cluster.provision(plan, stopped.signal)
      layout.writeState({ ...plan, provisioned: hash })
    }
    await show(plan, await cluster.settled(plan, fresh ? 180_000 : 80_000, stopped.signal))
  } finally {
    held.release()
  }
}

/** What `up` is to make, from what was asked for and what is there. Refuses what cannot be; touches nothing. */
function planOf(given: Given): Playground {
  const found = layout.readState(given.name)
  if (found && given.sources.release === 'flag' && found.release !== given.release) {
    throw new Refused(
      `the playground ${found.name} is made of ${found.release}`,
      `Run pgcm-playground destroy first, or give another --name.`,
    )
  }
  if (found && given.subnet && found.subnet !== given.subnet) {
    throw new Refused(
      `the playground ${found.name} lives in ${found.subnet}`,
      'Run pgcm-playground destroy first, or leave --subnet out.',
    )
  }
  const others = layout.allPlaygrounds().filter(({ name }) => name !== given.name)
  const taken = [...network.networksInUse(layout.bridgeOf(given.name)), ...others.map(({ subnet }) => subnet)]
  const subnet = network.chooseSubnet(given.name, found?.subnet ?? given.subnet, taken)
  const release = found?.release ?? given.release
  const nodes = (Object.keys(layout.hosts) as layout.Node[]).filter(
    (node) => node.startsWith('pg') || given.app || found?.nodes.includes(node),
  )
  const image = found && existsSync(found.image) ? found.image : imageDir(release)
  const plan = { ...found, name: given.name, dir: layout.dirOf(given.name), subnet, release, nodes, image }
  const booting = nodes.filter((node) => !found || machines.power(plan, node) !== 'on')
  const fresh = nodes.filter((node) => !existsSync(layout.machineDir(plan, node)))
  host.judge(host.probe(), booting.length, fresh.length, existsSync(image))
  network.checkBridge(plan)
  return plan
}

/** Writes the plan down, so that no other playground takes the same subnet. */
function settle(given: Given): Playground {
  const held = lock('subnets', 'another playground is being made', 10)
  try {
    const plan = planOf(given)
    mkdirSync(plan.dir, { recursive: true, mode: 0o700 })
    layout.writeState(plan)
    return plan
  } finally {
    held.release()
  }
}

async function bootAll(ground: Playground): Promise<void> {
  const dark = ground.nodes.filter((node) => machines.power(ground, node) !== 'on')
  if (dark.length) say(`booting ${dark.join(', ')}`)
  for (const { node } of cuts.read(ground)) say(`healing the network of ${node}`)
  await cuts.change(ground, () => [])
  await each(ground.nodes, (node) => machines.plugIn(ground, node))
  await each(ground.nodes, (node) => machines.answers(ground, node, 60_000))
  if (dark.length) {
    const reach = 'timeout 5 bash -c "exec 3<>/dev/tcp/pg02/22"'
    await cluster.on(ground, 'pg01', reach).catch((cause) => {
      throw new Failed(
        'pg01 does not reach pg02',
        `A firewall here may drop what passes the bridge ${layout.bridgeOf(ground.name)}.`,
        { cause },
      )
    })
    say(`${ground.nodes.join(', ')} are up in ${ground.subnet}`)
  }
}

/** Does `body` for all at once, waits for every one, and then throws what went wrong first. */
async function each<T>(items: T[], body: (item: T) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled(items.map(body))
  for (const result of results) if (result.status === 'rejected') throw result.reason
}

async function show(ground: Playground, roles: Map<string, string>): Promise<void> {
  const nameOf = (status: string) => [...roles].find(([, value]) => value === status)?.[0] ?? 'pg01'
  const [primary, sync] = [nameOf('PRI'), nameOf('HS:sync')]
  for (const command of ['crm_mon -Afr1', 'pgcm-status']) {
    const { stdout, stderr } = await cluster.on(ground, 'pg01', command, 20_000, [0, 1, 2, 127])
    process.stdout.write(`\n${(stdout || stderr).trimEnd()}\n`)
  }
  const self = `bin/pgcm-playground${ground.name === 'pgcm' ? '' : ` --name ${ground.name}`}`
  const next = [
    [`ssh ${primary} pgcm-failover`, `the primary moves to ${sync}, and clients wait a moment`],
    [`ssh ${primary} pgcm-rejoin`, `${primary} comes back as a standby`],
    [`kill ${sync}`, 'pulls the plug of the new primary'],
  ]
  process.stdout.write(`\n${colour.green(`The cluster is up: ${primary} is primary.`)} Try next:\n\n`)
  for (const [words, why] of next) process.stdout.write(`  ${`${self} ${words}`.padEnd(46)} # ${why}\n`)
}

const down: Verb = async ({ name }) => {
  const ground = existing(name)
  const held = locked(name)
  try {
    await stopAll(ground, 20_000)
    say(`${name} is down; \`up\` brings it back`)
  } finally {
    held.release()
  }
}

async function stopAll(ground: Playground, patienceMs: number): Promise<void> {
  await fence.stopFence(ground) // first, or the machines still up would fence the ones that went
  await each(ground.nodes, (node) =>
    patienceMs ? machines.shutDown(ground, node, patienceMs) : machines.off(ground, node),
  )
  await cluster.closeConnections(ground)
  await each(ground.nodes, (node) => machines.stow(ground, node))
  await cuts.change(ground, () => [])
  await network.bridgeDown(ground)
}

const destroy: Verb = async ({ name, cache }) => {
  const ground = layout.readState(name)
  if (!ground && !cache) throw absent(name)
  if (ground) {
    const held = locked(name)
    try {
      await stopAll(ground, 0)
      rmSync(ground.dir, { recursive: true, force: true })
      if (layout.allPlaygrounds().length === 0) host.restoreLimits()
    } finally {
      held.release()
    }
  }
  if (existsSync(layout.places.state) && readdirSync(layout.places.state).length === 0)
    rmdirSync(layout.places.state)
  if (cache) {
    const users = layout.allPlaygrounds().map((each) => each.name)
    if (users.length) throw new Refused(`the images are in use by ${users.join(', ')}`, 'Destroy them first.')
    rmSync(layout.places.cache, { recursive: true, force: true })
  }
  say(`${name} is gone${cache ? ', and so are the images' : ''}`)
}

const status: Verb = async ({ name, json }) => {
  const ground = existing(name)
  const all = cuts.read(ground)
  const nodes = ground.nodes.map((node) => ({
    name: node,
    address: layout.addressOf(ground, node),
    power: machines.power(ground, node),
    cuts: all.filter((cut) => cut.node === node),
  }))
  const { subnet, release, provisioned } = ground
  if (json) {
    process.stdout.write(`${JSON.stringify({ name, subnet, release, provisioned: !!provisioned, nodes })}\n`)
    return
  }
  process.stdout.write(
    `${name}: ${release}, ${subnet}${provisioned ? '' : ', no playbook has finished yet'}\n`,
  )
  for (const { name, address, power, cuts: mine } of nodes) {
    const cut = mine.map(({ from = 'all', only }) => `cut off from ${from}${only ? ` (${only})` : ''}`)
    process.stdout.write(`  ${[name.padEnd(6), address.padEnd(15), power, ...cut].join('  ')}\n`)
  }
}

const ssh: Verb = async ({ name }, [word, ...command]) => {
  const ground = existing(name)
  const node = layout.nodeOf(ground, word)
  if (machines.power(ground, node) !== 'on') {
    throw new Refused(`${node} is off`, `Start it: pgcm-playground start ${node}`)
  }
  const terminal = process.stdin.isTTY && process.stdout.isTTY ? ['-t'] : []
  const [file, ...args] = layout.sshTo(ground, node) as [string, ...string[]]
  const { status, error } = spawnSync(file, [...terminal, ...args, ...command], { stdio: 'inherit' })
  if (error) throw new Failed(`ssh: ${error.message}`)
  return status ?? 255
}

const kill: Verb = async ({ name }, [word]) => {
  const ground = existing(name)
  const node = layout.nodeOf(ground, word)
  await machines.unplug(ground, node)
  say(`${node} has no power until \`start ${node}\``)
}

const start: Verb = async ({ name }, [word]) => {
  const ground = existing(name)
  const node = layout.nodeOf(ground, word)
  await network.bridgeUp(ground)
  await cuts.apply(ground, cuts.read(ground))
  await fence.startFence(ground)
  await machines.plugIn(ground, node)
  await machines.answers(ground, node, 60_000)
  say(`${node} is up`)
}

const partition: Verb = async ({ name, from, only }, [word]) => {
  const ground = existing(name)
  const node = layout.nodeOf(ground, word)
  const other = from ? layout.nodeOf(ground, from) : undefined
  if (other === node) throw new Refused(`${node} cannot be cut off from itself`)
  const cut = { node, ...(other && { from: other }), ...(only && { only: cuts.ports(only) }) }
  await cuts.change(ground, (now) => [...now, cut])
  say(`${node} is cut off from ${other ?? 'the others'}${only ? ` on ${only}` : ''} until \`heal ${node}\``)
}

const heal: Verb = async ({ name }, [word]) => {
  const ground = existing(name)
  const healed = word ? layout.nodeOf(ground, word) : undefined
  // A cut has two ends, and each can be healed by name.
  await cuts.change(ground, (now) =>
    now.filter(({ node, from }) => healed !== undefined && node !== healed && from !== healed),
  )
  say(`${healed ?? name} has its network back`)
}

/** Not for people: what `up` leaves running for the fence agents. */
const fenceDaemon: Verb = ({ name }) => {
  const ground = existing(name)
  // Looked up anew each time: a later `up --app` may add a machine.
  const now = () => existing(name)
  return fence.serveFence(ground, {
    names: () => now().nodes,
    power: (node) => machines.power(now(), layout.nodeOf(now(), node)),
    off: (node) => machines.off(now(), layout.nodeOf(now(), node)),
    on: (node) => machines.boot(now(), layout.nodeOf(now(), node)),
  })
}

const absent = (name: string) => new Refused(`there is no playground ${name}`, 'Make it: pgcm-playground up')

function existing(name: string): Playground {
  const ground = layout.readState(name)
  if (!ground) throw absent(name)
  return ground
}

const locked = (name: string) => lock(name, `another pgcm-playground is at work on ${name}`)

/** The verbs, each with how many words may follow it. */
const verbs: Record<string, [Verb, number]> = {
  up: [up, 0],
  down: [down, 0],
  destroy: [destroy, 0],
  status: [status, 0],
  ssh: [ssh, Number.POSITIVE_INFINITY],
  kill: [kill, 1],
  start: [start, 1],
  partition: [partition, 1],
  heal: [heal, 1],
  'fence-daemon': [fenceDaemon, 0],
}

export const verbNames: string[] = Object.keys(verbs).filter((verb) => verb !== 'fence-daemon')

/** Finds the verb among the words of the command line. */
export function dispatch(words: string[]): { verb: Verb; rest: string[] } {
  const [word, ...rest] = words
  const found = word === undefined ? undefined : verbs[word]
  const hint = `It is one of ${verbNames.join(', ')}.`
  if (!found) throw new Refused(word === undefined ? 'which verb?' : `unknown verb ${word}`, hint)
  const [verb, most] = found
  if (rest.length > most)
    throw new Refused(`${word} does not know what to do with ${rest.slice(most).join(' ')}`)
  return { verb, rest }
}

export function main(): Promise<void> {
  return run('playground', async (config, parsed) => {
    const { verb, rest } = dispatch(parsed.words)
    if (process.getuid?.() !== 0) {
      throw new Refused('the playground boots machines, which only root may', 'Use sudo.')
    }
    layout.checkName(config.name)
    if (verb !== fenceDaemon)
      for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => stopped.abort())
    return (await verb({ ...config, sources: parsed.sources }, rest)) ?? 0
  })
}
