import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { run } from './cli.ts'
import { Failed, Refused } from './errors.ts'
import { closeConnections } from './playground-cluster.ts'
import * as cuts from './playground-cuts.ts'
import * as fence from './playground-fence.ts'
import * as host from './playground-host.ts'
import type { Playground } from './playground-layout.ts'
import * as layout from './playground-layout.ts'
import { lockPlayground } from './playground-lock.ts'
import * as machines from './playground-machines.ts'
import * as network from './playground-network.ts'
import { each, say } from './playground-progress.ts'
import { type Given, up } from './playground-up.ts'

type Verb = (given: Given, words: string[]) => Promise<number> | Promise<void>

const stopped = new AbortController()

const down: Verb = async ({ name }) => {
  const ground = existing(name)
  const held = await lockPlayground(name)
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
  await closeConnections(ground)
  await each(ground.nodes, (node) => machines.stow(ground, node))
  await cuts.change(ground, () => [])
  await network.bridgeDown(ground)
}

const destroy: Verb = async ({ name, cache }) => {
  const ground = layout.readState(name)
  if (!ground && !cache) throw absent(name)
  if (ground) {
    const held = await lockPlayground(name)
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

/** The verbs, each with how many words may follow it. */
const verbs: Record<string, [Verb, number]> = {
  up: [(given) => up(given, stopped.signal), 0],
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
