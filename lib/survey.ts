/** The cluster as everybody's answers show it, at one moment; and what follows from them. Nothing here asks or acts. */

import { isHost } from './address.ts'
import type { Api } from './api.ts'
import { type ClusterView, primaryOf as promotedNode } from './cluster.ts'
import { Refused } from './errors.ts'
import type { NodeStatus } from './nodestatus.ts'

/** A machine's API, and what it answered when asked for its status. */
export interface Seen {
  api: Api
  /** Found among the Postgres nodes of the configuration, or among the proxies registered in etcd. */
  kind: 'node' | 'app'
  status?: NodeStatus
  /** Why there is no status. */
  error?: string
  /** How far its clock is ahead of ours in ms, as well as one question can tell. */
  skewMs?: number
}

export interface Holder {
  host: string
  pid: number
  command: string
  since: string
  /** It ran here and does so no more: its lease is all that is left. */
  dead?: boolean
}

export interface Survey {
  seen: Seen[]
  /** The primary's address in etcd; null when there is no such key. */
  published: string | null
  /** Addresses of the Postgres nodes by name, from the published view. */
  addresses: Record<string, string>
  lock: Holder | null
  /** Why etcd could not be read. */
  etcdError?: string
}

/** A machine that answered. */
export type Member = Seen & { name: string; status: NodeStatus }

export const members = (survey: Survey): Member[] =>
  survey.seen.flatMap((seen) =>
    seen.status ? [{ ...seen, status: seen.status, name: seen.status.name }] : [],
  )

/** As the machine calls itself; one that is silent is named after the node that its endpoint is, or after the endpoint. */
export const nameOf = (survey: Survey, { api, status }: Seen): string =>
  status?.name ??
  clusterOf(survey)?.nodes.find(({ name }) => isHost(api.name, name, survey.addresses[name]))?.name ??
  api.name

const memberNamed = (survey: Survey, name: string): Member | undefined =>
  members(survey).find((member) => member.name === name)

/** Pacemaker's view, from a node in quorum if there is one: a node that was cut off believes old news. */
export function clusterOf(survey: Survey): ClusterView | undefined {
  const views = members(survey).flatMap(({ status }) => status.cluster ?? [])
  return views.find((view) => view.quorum) ?? views[0]
}

/** The primary: Pacemaker says so, and its PostgreSQL too. */
export function primaryOf(survey: Survey): Member | undefined {
  const view = clusterOf(survey)
  const node = view && promotedNode(view)
  const member = node && memberNamed(survey, node.name)
  return member?.status.postgres?.role === 'primary' ? member : undefined
}

/** By its own word, or as etcd has it. */
export const addressOf = (survey: Survey, member: Member | undefined): string | undefined =>
  member && (member.status.address ?? survey.addresses[member.name])

/** How a run of pgcm-failover names itself to the PgBouncers. */
export const ownerName = (host: string, pid: number): string => `pgcm-failover ${host} ${pid}`

/** Paused by a failover that lives no more: one that lives has the lock from before its first pause till after its last. */
export const isOrphan = (survey: Survey, pause: { owner: string } | null): boolean =>
  (pause?.owner.startsWith('pgcm-failover ') ?? false) &&
  survey.etcdError === undefined &&
  (survey.lock === null || survey.lock.dead === true)

/** How the primary sees its standbys, by name; streaming ones only. */
export function streaming(survey: Survey): Map<string, { syncState: string; lagBytes: number | null }> {
  const rows = primaryOf(survey)?.status.postgres?.replication ?? []
  return new Map(rows.filter((row) => row.state === 'streaming').map((row) => [row.name, row]))
}

/**
 * Who shall be primary: the node asked for, else the synchronous standby (with `ANY k`, where several count, the
 * one that lags least).
 * @throws Refused where there is none
 */
export function chooseTarget(survey: Survey, wanted: string): Member {
  const primary = primaryOf(survey)
  if (!primary) throw new Refused('there is no primary that answers', 'pgcm-status shows who says what.')
  const standbys = streaming(survey)
  const names = `Standbys that stream: ${[...standbys.keys()].join(', ') || 'none'}.`
  if (wanted) {
    if (wanted === primary.name) throw new Refused(`${wanted} is the primary already`)
    const member = memberNamed(survey, wanted)
    if (member?.kind !== 'node') throw new Refused(`${wanted} is no Postgres node that answers`, names)
    if (!standbys.has(wanted)) throw new Refused(`${wanted} does not stream from ${primary.name}`, names)
    return member
  }
  const synchronous = [...standbys]
    .filter(([, { syncState }]) => syncState === 'sync' || syncState === 'quorum')
    .sort(([, a], [, b]) => (a.lagBytes ?? Infinity) - (b.lagBytes ?? Infinity))
    .flatMap(([name]) => memberNamed(survey, name) ?? [])
  if (!synchronous[0])
    throw new Refused('there is no synchronous standby that answers', `${names} --to names one.`)
  return synchronous[0]
}
