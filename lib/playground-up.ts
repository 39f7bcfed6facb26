import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
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
import { lock, lockPlayground } from './playground-lock.ts'
import * as machines from './playground-machines.ts'
import * as network from './playground-network.ts'
import { each, say } from './playground-progress.ts'

/** The options, and where each came from. */
export type Given = Config & { sources: Record<string, string> }

/** The runbook: each step looks at what is there already, so that a second `up` goes on where the first one stood. */
export async function up(given: Given, signal: AbortSignal): Promise<void> {
  planOf(given) // refuses before anything is touched
  const held = await lockPlayground(given.name)
  try {
    await host.installPackages(signal)
    const plan = await settle(given)
    if (!existsSync(plan.image)) await ensureImage(plan.release, signal)
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
      // Forgotten first: a run that fails half-way leaves machines that are neither the old nor the new.
      layout.writeState({ ...plan, provisioned: undefined })
      await cluster.provision(plan, signal)
      layout.writeState({ ...plan, provisioned: hash })
    }
    await show(plan, await cluster.settled(plan, fresh ? 180_000 : 80_000, signal))
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
  const grown = found && existsSync(join(found.dir, 'machines'))
  const image = grown ? found.image : imageDir(release)
  if (grown && !existsSync(image) && image !== imageDir(release)) {
    throw new Refused(
      `the image under the machines of ${found.name} is gone`,
      'Run pgcm-playground destroy, and up again.',
    )
  }
  const plan = { ...found, name: given.name, dir: layout.dirOf(given.name), subnet, release, nodes, image }
  const booting = nodes.filter((node) => !found || machines.power(plan, node) !== 'on')
  const fresh = nodes.filter((node) => !existsSync(layout.machineDir(plan, node)))
  host.judge(host.probe(), booting.length, fresh.length, existsSync(image))
  network.checkBridge(plan)
  return plan
}

/** Writes the plan down, so that no other playground takes the same subnet. */
async function settle(given: Given): Promise<Playground> {
  const held = await lock('subnets', 'another playground is being made', 10)
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
