import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ClusterView, Names } from './cluster.ts'
import { moveId, view } from './crmmon.ts'
import { Failed } from './errors.ts'
import { sh } from './sh.ts'
import { until } from './wait.ts'

interface Bounds {
  timeoutMs: number
  signal?: AbortSignal | undefined
}

const common = (signal: AbortSignal | undefined) => (signal ? { signal } : {})

/** `body` with a file of that text, which nobody else can have put there. */
async function withFile<T>(text: string, body: (file: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(process.env.RUNTIME_DIRECTORY ?? tmpdir(), 'cib-'))
  try {
    await writeFile(join(dir, 'cib.xml'), text, { mode: 0o600 })
    return await body(join(dir, 'cib.xml'))
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Removes what looks of an earlier run have left in the daemon's own directory: a kill leaves the file of its CIB there. */
export async function sweep(): Promise<void> {
  const dir = process.env.RUNTIME_DIRECTORY
  if (!dir) return
  for (const name of await readdir(dir))
    if (name.startsWith('cib-')) await rm(join(dir, name), { recursive: true, force: true })
}

/** A view, and the CIB it was made from. */
export interface Snapshot {
  view: ClusterView
  cib: string
}

/** The CIB as this node has it. */
export async function readCib({ timeoutMs, signal }: Bounds): Promise<string> {
  return (await sh(['cibadmin', '--query'], { timeoutMs, ...common(signal) })).stdout
}

/**
 * The cluster as this node's Pacemaker has it. crm_mon is given the very CIB that was read, so that roles, attributes and epochs
 * belong to one moment: two questions could give the old primary with the new epoch.
 */
export async function lookAt(cib: string, names: Names, { timeoutMs, signal }: Bounds): Promise<Snapshot> {
  const monitor = await withFile(cib, (file) =>
    sh(['crm_mon', '--one-shot', '--output-as=xml'], {
      timeoutMs,
      env: { ...process.env, CIB_file: file },
      ...common(signal),
    }),
  )
  return { view: view(monitor.stdout, cib, names), cib }
}

/** The view alone. */
export const readCluster = async (names: Names, bounds: Bounds): Promise<ClusterView> =>
  (await lookAt(await readCib(bounds), names, bounds)).view

/** The constraint that makes `target` the only place for the promoted role, until `expires`. */
export function moveConstraint(clone: string, target: string, expires: Date): string {
  const id = moveId(clone)
  const end = expires.toISOString().replace(/\.\d+Z$/, 'Z')
  return (
    `<rsc_location id="${id}" rsc="${clone}">` +
    `<rule id="${id}-rule" role="Promoted" score="INFINITY" boolean-op="and">` +
    `<expression id="${id}-node" attribute="#uname" operation="eq" value="${target}"/>` +
    `<date_expression id="${id}-end" operation="lt" end="${end}"/>` +
    '</rule></rsc_location>'
  )
}

const scope = ['--scope', 'constraints']

/** Puts the constraint in, or a later end into it. */
export const migrateCommand = (clone: string, target: string, expires: Date): string[] => [
  ...['cibadmin', '--modify', '--allow-create', ...scope],
  ...['--xml-text', moveConstraint(clone, target, expires)],
]

export const unmigrateCommand = (clone: string): string[] => [
  ...['cibadmin', '--delete', ...scope],
  ...['--xml-text', `<rsc_location id="${moveId(clone)}"/>`],
]

/** Asks whether the constraint is there: exit 105 says that it is not (6 on older releases). */
const askCommand = (clone: string): string[] => [
  ...['cibadmin', '--query', '--xpath', `//rsc_location[@id='${moveId(clone)}']`],
]

/** Makes Pacemaker forget failures of the resource on a node and probe it anew. */
export const cleanupCommand = (resource: string, node: string): string[] => [
  ...['crm_resource', '--cleanup', '--resource', resource, '--node', node],
]

/** Asks Pacemaker to move the promoted role. The rule ends by itself after `lifetimeMs`, whatever becomes of us. */
export async function migrate(
  clone: string,
  target: string,
  lifetimeMs: number,
  bounds: Bounds,
): Promise<void> {
  if (!/^[A-Za-z0-9._-]+$/.test(target)) throw new Failed(`${JSON.stringify(target)} is no node name`)
  const expires = new Date(Date.now() + lifetimeMs)
  await sh(migrateCommand(clone, target, expires), { timeoutMs: bounds.timeoutMs, ...common(bounds.signal) })
}

/** How long Pacemaker may take to say the same as the agents. */
const SETTLED_MS = 3500

/** Whether the promoted instance would stay where it is if the scores alone decided. */
export const scored = ({ nodes }: ClusterView): boolean => {
  const highest = Math.max(...nodes.map(({ score }) => score ?? -1))
  return highest > 0 && nodes.some(({ role, score }) => role === 'Promoted' && score === highest)
}

/**
 * Removes the constraint, and comes back once it is seen to be gone. Nothing to remove is no error. Without it the scores decide,
 * and a node that has just been promoted tells its own a moment later; PostgreSQL may even be promoted before Pacemaker has come to
 * that. Both are waited for, or the role would move back. `newest` gives the newest epoch that anybody has told of.
 */
export async function unmigrate(
  names: Names,
  { timeoutMs, signal }: Bounds,
  newest = () => 0,
): Promise<void> {
  const { clone } = names
  const bounds = { timeoutMs: Math.min(timeoutMs, SETTLED_MS), everyMs: 200, ...common(signal) }
  const settled = until('Pacemaker and the scores agree', bounds, async () => {
    const view = await readCluster(names, bounds)
    return view.epoch.promoted >= newest() && scored(view)
  })
  await settled.catch(() => {})
  await sh(unmigrateCommand(clone), { timeoutMs, okCodes: [0, 6, 105], ...common(signal) })
  await until(`the constraint ${moveId(clone)} is gone`, { timeoutMs, ...common(signal) }, async () => {
    const { code } = await sh(askCommand(clone), { timeoutMs, okCodes: [0, 6, 105], ...common(signal) })
    return code !== 0
  })
}

export async function cleanup(resource: string, node: string, { timeoutMs, signal }: Bounds): Promise<void> {
  await sh(cleanupCommand(resource, node), { timeoutMs, ...common(signal) })
}
