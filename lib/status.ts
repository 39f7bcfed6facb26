/** pgcm-status: who is what, how far behind, where each PgBouncer points, and what is wrong. */
import { run } from './cli.ts'
import { colour } from './colour.ts'
import type { Config } from './config.ts'
import { Refused } from './errors.ts'
import { historyLine, type Receipt } from './receipt.ts'
import { simulation } from './simulate.ts'
import { clusterOf, members, primaryOf, type Survey, streaming } from './survey.ts'
import { tableOf, topology } from './topology.ts'
import type { Out } from './view.ts'
import { connectWorld, type Surroundings } from './world.ts'

/** What is wrong, a sentence each; none where the cluster is as it should be. */
export function warnings(survey: Survey): string[] {
  const view = clusterOf(survey)
  const primary = primaryOf(survey)
  const standbys = streaming(survey)
  const said: string[] = []
  if (survey.etcdError !== undefined) said.push(`etcd: ${survey.etcdError}`)
  if (!view) said.push('no node that answers can ask Pacemaker')
  else if (!view.quorum) said.push('no quorum among the nodes that answer')
  if (!primary) said.push('no primary')
  if (view && !view.fencing) said.push('fencing is off')
  if (view?.maintenance) said.push('the cluster is in maintenance mode')
  for (const node of view?.nodes ?? []) {
    if (!node.online) said.push(`${node.name} is down`)
    else if (node.standby) said.push(`${node.name} is in standby mode`)
    else if (node.maintenance) said.push(`${node.name} is in maintenance mode`)
    else if (primary && node.name !== primary.name && !standbys.has(node.name))
      said.push(`${node.name} does not stream${node.role === 'Stopped' ? ': stopped' : ''}`)
  }
  for (const { id, kind } of view?.constraints ?? []) {
    if (kind !== 'other') said.push(`constraint ${id} binds the resource to a node`)
  }
  for (const { operation, node, reason } of view?.failures ?? [])
    said.push(`${operation} failed on ${node}${reason ? `: ${reason}` : ''}`)
  if (survey.lock) {
    const { command, pid, host, since } = survey.lock
    said.push(`the failover lock is held by ${command} (pid ${pid}) on ${host} since ${since}`)
  }
  for (const { api, error } of survey.seen)
    if (error !== undefined) said.push(`${api.name} does not answer: ${error}`)
  for (const { name, status } of members(survey)) {
    if (!status.pgbouncer) said.push(`PgBouncer on ${name} does not answer`)
    else if (status.pgbouncer.paused) said.push(`PgBouncer on ${name} is paused`)
    for (const { name: database, host } of status.pgbouncer?.databases ?? []) {
      if (survey.published !== null && host !== survey.published)
        said.push(`PgBouncer on ${name} sends ${database} to ${host}, the primary is ${survey.published}`)
    }
    for (const error of status.errors) said.push(`${name}: ${error}`)
  }
  const address = primary?.status.address
  if (address && survey.etcdError === undefined && survey.published !== address)
    said.push(
      `etcd says that the primary is at ${survey.published ?? 'nowhere'}, but ${primary.name} is at ${address}`,
    )
  return said
}

/** Prints the table. Gives the exit code: 0 where all is well, 1 where something is wrong. */
export async function status(config: Config, world: Surroundings, out: Out): Promise<number> {
  const survey = await world.survey()
  const rows = topology(survey)
  const wrong = warnings(survey)
  const primary = primaryOf(survey)
  const view = clusterOf(survey)
  if (config.json) {
    const fields = {
      healthy: wrong.length === 0,
      primary: primary?.name ?? null,
      published: survey.published,
      epoch: view?.epoch.promoted ?? null,
      lock: survey.lock,
      nodes: rows,
      warnings: wrong,
    }
    out.write(`${JSON.stringify(fields)}\n`)
  } else {
    const head = primary
      ? `primary ${primary.name}, published ${survey.published ?? 'nowhere'}, epoch ${view?.epoch.promoted}`
      : `no primary, published ${survey.published ?? 'nowhere'}`
    out.write(`${head}\n${tableOf(rows)}\n`)
    for (const line of wrong) out.write(`${colour.yellow('!')} ${line}\n`)
  }
  return wrong.length === 0 ? 0 : 1
}

/** The records that failovers kept, oldest first. */
export async function history(config: Config, world: Surroundings, out: Out): Promise<number> {
  for (const record of await world.history())
    out.write(`${config.json ? JSON.stringify(record) : historyLine(record as Receipt)}\n`)
  return 0
}

export const main = () =>
  run('status', async (config, _, io) => {
    if (config.cibFile && !config.simulate) throw new Refused('--cib-file goes with --simulate')
    if (config.simulate) return simulation(config, io.stdout)
    const world = connectWorld(config)
    try {
      return await (config.history ? history : status)(config, world, io.stdout)
    } finally {
      world.close()
    }
  })
