/** The cluster as the tests see it: by asking Pacemaker, etcd and every PgBouncer, not our own scripts. */
import { XMLParser } from 'fast-xml-parser'
import pg from 'pg'
import { until } from '../../lib/wait.ts'
import {
  address,
  bouncers,
  inside,
  isOn,
  machines,
  nodes,
  playground,
  psql,
  secret,
  signalPostgres,
} from './machines.ts'

export interface NodeView {
  online: boolean
  role: string
  status: string
  dataStatus: string
  score: string
}

export interface View {
  quorum: boolean
  nodes: Record<string, NodeView>
  failures: string[]
}

const lists = new Set(['node', 'attribute', 'resource', 'clone', 'failure', 'ban'])
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: '',
  isArray: (name) => lists.has(name),
})
type Xml = Record<string, string> & { node?: Xml[]; attribute?: Xml[]; resource?: Xml[]; clone?: Xml[] }

/** crm_mon as a machine sees it. */
export async function crm(machine: string): Promise<View> {
  const argv = ['crm_mon', '-1', '-A', '-f', '-r', '--output-as=xml']
  const xml = parser.parse((await inside(machine, argv, { timeoutMs: 10_000 })).stdout)
  const result = xml['pacemaker-result'] ?? xml.crm_mon
  const view: View = { quorum: result.summary?.current_dc?.with_quorum === 'true', nodes: {}, failures: [] }
  for (const node of (result.nodes?.node ?? []) as Xml[]) {
    view.nodes[node.name as string] = {
      online: node.online === 'true',
      role: '',
      status: '',
      dataStatus: '',
      score: '',
    }
  }
  const clones = (result.resources?.clone ?? []) as Xml[]
  for (const resource of clones.flatMap((clone) => clone.resource ?? [])) {
    for (const at of resource.node ?? []) {
      const node = view.nodes[at.name as string]
      if (node && resource.id === 'Postgresql') node.role = resource.role ?? ''
    }
  }
  for (const at of (result.node_attributes?.node ?? []) as Xml[]) {
    const node = view.nodes[at.name as string]
    for (const { name, value } of at.attribute ?? []) {
      if (!node) continue
      if (name === 'Postgresql-status') node.status = value as string
      if (name === 'Postgresql-data-status') node.dataStatus = value as string
      if (name === 'master-Postgresql') node.score = value as string
    }
  }
  for (const failure of (result.failures?.failure ?? []) as Xml[]) {
    view.failures.push(`${failure.node}: ${failure.op_key ?? failure.id} ${failure.exitreason ?? ''}`.trim())
  }
  return view
}

const promoted = (node: NodeView) => /^(Promoted|Master)$/.test(node.role)

/** The primary by the word of a partition with quorum: promoted, PRI and LATEST; undefined while there is none. */
export async function primary(): Promise<string | undefined> {
  for (const machine of nodes.filter(isOn)) {
    try {
      const view = await crm(machine)
      if (!view.quorum) continue
      const found = Object.entries(view.nodes).filter(
        ([, node]) => node.online && promoted(node) && node.status === 'PRI' && node.dataStatus === 'LATEST',
      )
      if (found.length === 1) return found[0]?.[0]
    } catch {} // a machine that is coming or going
  }
  return undefined
}

/** Waits for a primary, other than `not` if given. */
export const primaryWithin = (timeoutMs: number, not = ''): Promise<string> =>
  until(`there is a primary${not && ` other than ${not}`}`, { timeoutMs, everyMs: 50 }, async () => {
    const name = await primary()
    return name === not ? undefined : name
  })

/** The standby with a status, HS:sync or HS:potential. */
export async function standby(status: string): Promise<string> {
  const view = await crm((await primary()) ?? (nodes.find(isOn) as string))
  const found = Object.entries(view.nodes).find(([, node]) => node.status === status)
  if (!found) throw new Error(`nobody is ${status}`)
  return found[0]
}

/** What etcd says, asked on a machine that runs. A key that is not there is ''. */
export async function etcd(...args: string[]): Promise<string> {
  const machine = nodes.find(isOn)
  if (!machine) throw new Error('no machine is on')
  const tls = '--cacert=/etc/pgcm/tls/ca.crt --cert=/etc/pgcm/tls/node.crt --key=/etc/pgcm/tls/node.key'
  const words = [
    'env',
    'ETCDCTL_API=3',
    'etcdctl',
    ...tls.split(' '),
    `--endpoints=https://${address(machine)}:2379`,
  ]
  return (await inside(machine, [...words, ...args], { timeoutMs: 5_000 })).stdout.trim()
}
export const published = () => etcd('get', '--print-value-only', '/postgres/master')

/** Runs queries of the admin console, or of a database, of the PgBouncer on a machine. */
export async function bouncer(machine: string, query: string, database = 'pgbouncer', timeoutMs = 2_000) {
  const user = database === 'pgbouncer' ? 'pgcm' : database
  const client = new pg.Client({
    host: address(machine),
    port: 6432,
    user,
    password: secret(user),
    database,
    connectionTimeoutMillis: timeoutMs,
    query_timeout: timeoutMs,
  })
  client.on('error', () => {})
  try {
    await client.connect()
    return (await client.query(query)).rows as Record<string, string>[]
  } finally {
    await Promise.race([client.end(), new Promise((resolve) => setTimeout(resolve, 200).unref())])
    ;(client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
  }
}

/** Where a PgBouncer sends clients of the app database. */
export async function pointsAt(machine: string): Promise<string> {
  const rows = await bouncer(machine, 'SHOW DATABASES')
  return rows.find((row) => row.name === 'app')?.host ?? ''
}

const STANDBYS = {
  first: { 'HS:potential': 'STREAMING|POTENTIAL', 'HS:sync': 'STREAMING|SYNC' },
  any: { 'HS:sync': 'STREAMING|SYNC' },
}
let method: keyof typeof STANDBYS = 'first'

/** Sets the agent's parameter, for which Pacemaker stops and starts PostgreSQL everywhere, and waits until all is well. */
export async function syncMethod(wanted: keyof typeof STANDBYS, timeoutMs: number): Promise<void> {
  method = wanted
  const name = await primaryWithin(timeoutMs)
  const resource = ['crm_resource', '--resource=Postgresql']
  const { stdout } = await inside(name, [...resource, '--get-parameter=sync_method'], {
    okCodes: [0, 6, 105],
  })
  if ((stdout.trim() || 'first') === wanted) return
  await inside(name, [...resource, '--set-parameter=sync_method', `--parameter-value=${wanted}`])
  await healthy(timeoutMs)
}

/** Everything that is wrong with the cluster, in plain words; empty when it is as it should be. */
export async function complaints(): Promise<string[]> {
  const wrong: string[] = []
  const off = bouncers.filter((machine) => !isOn(machine))
  if (off.length > 0) return [`off: ${off.join(', ')}`]
  const name = await primary()
  if (!name) return ['there is no primary']
  const view = await crm(name)
  const statuses = nodes.map((node) => view.nodes[node]?.status).sort()
  if (statuses.join(' ') !== (method === 'any' ? 'HS:sync HS:sync PRI' : 'HS:potential HS:sync PRI')) {
    wrong.push(nodes.map((node) => `${node} is ${view.nodes[node]?.status || 'unknown'}`).join(', '))
  }
  for (const node of nodes) {
    const { status = '', dataStatus = '', role = '' } = view.nodes[node] ?? {}
    const expected = ({ PRI: 'LATEST', ...STANDBYS[method] } as Record<string, string>)[status]
    if (dataStatus !== expected || role === '') wrong.push(`${node}: role ${role}, ${status}, ${dataStatus}`)
  }
  wrong.push(...view.failures.map((failure) => `failed action on ${failure}`))
  wrong.push(...(await leftovers()))
  const host = address(name)
  const key = await published()
  if (key !== host) wrong.push(`etcd says ${key}, the primary is ${host}`)
  await Promise.all(
    bouncers.map(async (machine) => {
      try {
        const at = await pointsAt(machine)
        if (at !== host) wrong.push(`the PgBouncer of ${machine} points at ${at}, not at ${host}`)
        else await bouncer(machine, 'select 1', 'app', 1_500)
      } catch (error) {
        wrong.push(`the PgBouncer of ${machine}: ${(error as Error).message}`)
      }
    }),
  )
  return wrong
}

/** Constraints and locks that somebody forgot. */
export async function leftovers(): Promise<string[]> {
  const machine = nodes.find(isOn) as string
  const cib = await inside(machine, ['cibadmin', '--query', '--scope=constraints'], { okCodes: [0, 105, 6] })
  const left = [...cib.stdout.matchAll(/<rsc_location[^>]* id="((?:cli|pgcm-move)-[^"]*)"/g)].map(
    (m) => `constraint ${m[1]}`,
  )
  const lock = await etcd('get', '--prefix', '--keys-only', '/postgres/lock')
  if (lock !== '') left.push(`lock ${lock}`)
  return left
}

/** Waits until the whole cluster is as it should be: primary, sync, potential, routed, nothing paused or left. */
export async function healthy(timeoutMs: number): Promise<string> {
  let wrong: string[] = []
  try {
    return await until('the cluster is healthy', { timeoutMs, everyMs: 250 }, async () => {
      try {
        wrong = await complaints()
      } catch (error) {
        wrong = [(error as Error).message]
      }
      return wrong.length === 0 ? primary() : undefined
    })
  } catch (error) {
    throw new Error(`${(error as Error).message}: ${wrong.join('; ')}`)
  }
}

/**
 * Is a machine attached to the primary as its standby? By the primary's word: the WAL receiver of a node that has diverged says
 * "streaming" for a moment each time it is refused.
 */
export async function streamsTo(name: string, machine: string, timeoutMs = 10_000): Promise<boolean> {
  const query = `select count(*) from pg_stat_replication where state = 'streaming' and application_name = '${machine}'`
  return (await psql(name, query, 'postgres', timeoutMs)) === '1'
}

/** Is a machine's PostgreSQL an attached standby, or the primary? */
const runsWell = async (machine: string) => {
  const name = await primary()
  if (!name || name === machine) return name === machine
  return streamsTo(name, machine, 3_000).catch(() => false)
}

/** Gives a machine its power back. A fencing that was on its way may turn it off once more while it boots. */
export const turnOn = (machine: string): Promise<boolean> =>
  until(`${machine} is on`, { timeoutMs: 60_000, everyMs: 500 }, async () => {
    if (!isOn(machine)) await playground('start', [machine]).catch(() => {})
    return isOn(machine)
  })

/** Brings back whatever a test (or a failed one) left: plugs, nets, stopped processes, nodes left behind. */
export async function cure(timeoutMs = 180_000): Promise<string> {
  if ((await complaints().catch(() => ['?'])).length === 0) return (await primary()) as string
  await playground('heal')
  for (const machine of machines()) await turnOn(machine)
  for (const machine of nodes) await signalPostgres(machine, 'CONT')
  for (const machine of bouncers) await bouncer(machine, 'RESUME').catch(() => {}) // it is not paused
  const deadline = Date.now() + timeoutMs
  await primaryWithin(60_000).catch(() =>
    inside('pg01', ['crm_resource', '--cleanup'], { okCodes: [0, 1, 124] }),
  )
  await primaryWithin(60_000)
  await syncMethod(method, 60_000) // a test that was killed may have left another
  for (const machine of nodes) {
    const back = await until(`${machine} runs`, { timeoutMs: 15_000, everyMs: 500 }, () =>
      runsWell(machine),
    ).catch(() => false)
    if (!back) await inside(machine, ['pgcm-rejoin', '--yes'], { timeoutMs: 120_000, okCodes: [0, 1, 2] })
  }
  await inside('pg01', ['crm_resource', '--cleanup'], { okCodes: [0, 1, 124] })
  const moves = '//rsc_location[starts-with(@id,"pgcm-move-")]'
  await inside('pg01', ['cibadmin', '--delete', `--xpath=${moves}`], { okCodes: [0, 105, 6] }) // there may be none
  return healthy(Math.max(10_000, deadline - Date.now()))
}

/** What a person would look at first when a test has failed. */
export async function diagnosis(): Promise<string> {
  const look = async (machine: string, command: string) => {
    const { stdout } = await inside(machine, command, { timeoutMs: 10_000, okCodes: [0, 1, 124] }).catch(
      (error) => ({
        stdout: String(error),
      }),
    )
    return `--- ${machine}: ${command}\n${stdout.trim()}`
  }
  const on = nodes.filter(isOn)
  const parts = await Promise.all([
    look(on[0] ?? 'pg01', 'crm_mon -Afr1'),
    ...on.map((machine) =>
      look(
        machine,
        'journalctl -q --no-pager -n 40 -o short-precise -u pacemaker -u pgcm-supervise -u pgcm-proxy',
      ),
    ),
  ])
  return parts.join('\n')
}
