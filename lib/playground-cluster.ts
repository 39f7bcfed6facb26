import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Failed } from './errors.ts'
import type { Node, Playground } from './playground-layout.ts'
import * as layout from './playground-layout.ts'
import { follow, say } from './playground-progress.ts'
import { sh } from './sh.ts'
import { now, since, sleep } from './wait.ts'
import { find, parseXml } from './xml.ts'

const repo = fileURLToPath(new URL('..', import.meta.url))
const ingredients = ['ansible', 'bin', 'lib', 'templates', 'package.json', 'package-lock.json']

function filesUnder(path: string): string[] {
  if (!existsSync(path)) return []
  if (statSync(path).isFile()) return [path]
  const entries = readdirSync(path, { withFileTypes: true })
  return entries.flatMap((entry) => {
    const file = join(path, entry.name)
    return entry.isDirectory() ? filesUnder(file) : entry.isFile() ? [file] : []
  })
}

/** What the machines are made from, as a hash: the same hash needs no second playbook run. */
export function hashOf(ground: Pick<Playground, 'release' | 'nodes' | 'subnet'>, root = repo): string {
  const hash = createHash('sha256').update(JSON.stringify([ground.release, ground.nodes, ground.subnet]))
  for (const ingredient of ingredients) {
    for (const file of filesUnder(join(root, ingredient)).sort()) {
      hash
        .update(`${relative(root, file)}\0`)
        .update(readFileSync(file))
        .update('\0')
    }
  }
  return hash.digest('hex').slice(0, 16)
}

/** The keys and the inventory: what is needed to reach the machines from here. */
export async function writeAccess(ground: Playground): Promise<void> {
  const key = join(ground.dir, 'ssh_key')
  if (!existsSync(key)) {
    await sh([
      'ssh-keygen',
      '-q',
      '-t',
      'ed25519',
      '-N',
      '',
      '-C',
      `pgcm-playground ${ground.name}`,
      '-f',
      key,
    ])
  }
  const hostKey = readFileSync(join(ground.image, 'etc/ssh/ssh_host_ed25519_key.pub'), 'utf8')
  const [type, value] = hostKey.split(' ')
  const everyone = (Object.keys(layout.hosts) as Node[]).map((node) => layout.addressOf(ground, node))
  writeFileSync(join(ground.dir, 'known_hosts'), `${everyone.join(',')} ${type} ${value}\n`)
  mkdirSync(join(ground.dir, 'inventory'), { recursive: true, mode: 0o700 })
  writeFileSync(join(ground.dir, 'inventory', 'hosts.yml'), layout.inventory(ground))
}

/** The line of Ansible's output worth showing. */
export function progressOf(line: string): string | undefined {
  const play = line.match(/^PLAY \[(.*)\]/)?.[1]
  if (play) return play
  const task = line.match(/^(?:TASK|RUNNING HANDLER) \[(.*)\]/)?.[1]
  if (task) return `  ${task}`
  return /^(fatal|failed): /.test(line) ? line : undefined
}

/** The first failure in Ansible's output: which task, on which machine, and the most telling line it has. */
export function failureOf(output: string): string | undefined {
  const lines = output.split('\n')
  const at = lines.findIndex((line) => /^(fatal|failed): /.test(line))
  if (at < 0) return undefined
  const task = lines
    .slice(0, at)
    .reverse()
    .find((line) => /^(TASK|RUNNING HANDLER) \[/.test(line))
  const next = lines.findIndex((line, index) => index > at && !/^\s+\S/.test(line))
  const details = lines.slice(at, next < 0 ? undefined : next)
  const detail = (key: string): string | undefined => {
    const start = details.findIndex((line) => line.trim().startsWith(`${key}: `))
    const value = details[start]?.replace(/^[^:]*: */, '')
    if (value === undefined || value === "''") return undefined
    if (!/^[>|]-?$/.test(value)) return value
    // A block of lines, indented more than its key.
    const indent = (line: string | undefined) => line?.match(/^ */)?.[0].length ?? 0
    const rest = details.slice(start + 1)
    const end = rest.findIndex((line) => indent(line) <= indent(details[start]))
    const block = rest.slice(0, end < 0 ? undefined : end).map((line) => line.trim())
    return block.find((line) => /error|fail|not/i.test(line)) ?? block[0]
  }
  const node = lines[at]?.match(/\[([^\]]+)\]/)?.[1]
  const name = task?.replace(/^.*?\[(.*)\].*$/, '$1')
  return [name, node, detail('stderr') ?? detail('msg') ?? detail('censored')].filter(Boolean).join(': ')
}

/** Runs the playbook that also rolls out production. */
export async function provision(ground: Playground, signal?: AbortSignal): Promise<void> {
  const home = join(ground.dir, 'ansible')
  const controls = join(home, 'cp')
  mkdirSync(controls, { recursive: true, mode: 0o700 })
  const start = now()
  try {
    await follow(['ansible-playbook', '-i', join(ground.dir, 'inventory', 'hosts.yml'), 'site.yml'], {
      what: 'ansible-playbook',
      cwd: join(repo, 'ansible'),
      logFile: join(ground.dir, 'ansible.log'),
      timeoutMs: 1_200_000,
      ...(signal && { signal }),
      env: {
        ...process.env,
        LC_ALL: 'C.UTF-8',
        ANSIBLE_CONFIG: join(repo, 'ansible', 'ansible.cfg'),
        // All that Ansible leaves on this machine goes with the playground.
        ANSIBLE_HOME: home,
        ANSIBLE_LOCAL_TEMP: join(home, 'tmp'),
        XDG_CACHE_HOME: layout.places.cache,
        ANSIBLE_SSH_CONTROL_PATH_DIR: controls,
        ANSIBLE_NOCOLOR: '1',
        ANSIBLE_NOCOWS: '1',
      },
      show: progressOf,
    })
  } catch (error) {
    const why = failureOf(readFileSync(join(ground.dir, 'ansible.log'), 'utf8'))
    if (!why || signal?.aborted || !(error instanceof Failed)) throw error
    throw new Failed(`ansible-playbook: ${why}`, error.hint, { cause: error })
  } finally {
    await closeConnections(ground)
  }
  say(`ansible is done (${Math.round(since(start) / 1000)} s)`)
}

/** Ends the connections that Ansible keeps open for its next run. */
export async function closeConnections(ground: Playground): Promise<void> {
  const controls = join(ground.dir, 'ansible', 'cp')
  if (!existsSync(controls)) return
  for (const name of readdirSync(controls)) {
    const control = `ControlPath=${join(controls, name)}`
    await sh(['ssh', '-o', control, '-O', 'exit', 'any'], { okCodes: [0, 255], timeoutMs: 5000 })
  }
}

/** Runs a command on a node. The words go through the node's shell, as ssh has it. */
export const on = (ground: Playground, node: Node, command: string, timeoutMs = 15_000, okCodes = [0]) =>
  sh([...layout.sshTo(ground, node), command], { timeoutMs, okCodes })

/** Postgresql-status of each node in what `crm_mon --output-as=xml` prints. */
export function statuses(xml: string): Map<string, string> {
  const root = parseXml(xml, xml.includes('<pacemaker-result') ? 'pacemaker-result' : 'crm_mon')
  return new Map(
    find(root, 'node_attributes', 'node').flatMap((node) => {
      const status = find(node, 'attribute').find((each) => each.attributes.name === 'Postgresql-status')
      return status ? [[node.attributes.name ?? '', status.attributes.value ?? '']] : []
    }),
  )
}

/** Whether a primary, a sync and a potential standby are there. */
export function isHealthy(found: Map<string, string>): boolean {
  const sorted = [...found.values()].sort().join(' ')
  return sorted === 'HS:potential HS:sync PRI'
}

/** A former primary that stays stopped, though the others are well: nothing but a rejoin will change that. */
export const left = (found: Map<string, string>): string | undefined =>
  [...found.values()].includes('PRI') ? [...found].find(([, status]) => status === 'STOP')?.[0] : undefined

/** Waits for a healthy cluster; gives who is what. */
export async function settled(ground: Playground, timeoutMs: number, signal?: AbortSignal) {
  const patienceMs = 20_000
  let found = new Map<string, string>()
  let said = ''
  let changed = now()
  const give = (why: string) => {
    const node = left(found)
    return new Failed(
      `no primary with a sync and a potential standby ${why}: ${said || 'no node answers'}`,
      node
        ? `${node} may have been primary before: pgcm-playground ssh ${node} pgcm-rejoin`
        : 'Look at: pgcm-playground ssh pg01 crm_mon -Afr1',
    )
  }
  const look = async () => {
    // Each node in turn: the first may be the one that is not well.
    for (const node of ground.nodes.filter((each) => each.startsWith('pg'))) {
      try {
        found = statuses((await on(ground, node, 'crm_mon -1 -A --output-as=xml', 8000)).stdout)
      } catch {
        continue
      }
      const text =
        [...found].map(([name, status]) => `${name} ${status}`).join(', ') || 'no node has a role yet'
      if (text !== said) {
        say(text)
        said = text
        changed = now()
      }
      if (left(found) && since(changed) > patienceMs) throw give(`for ${patienceMs / 1000} s`)
      return isHealthy(found)
    }
    return false
  }
  const start = now()
  while (!(await look())) {
    if (signal?.aborted) throw new Failed('stopped', 'Another `up` goes on from here.')
    if (since(start) > timeoutMs) throw give(`within ${timeoutMs / 1000} s`)
    await sleep(500, signal)
  }
  return found
}
