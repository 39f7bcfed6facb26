/** What our resource agent is told in the CIB, and where it keeps its files. */
import { join } from 'node:path'
import { Refused } from './errors.ts'
import { sh } from './sh.ts'
import { find, parseXml } from './xml.ts'

export interface Agent {
  pgdata: string
  bindir: string
  config: string
  pguser: string
  pgport: string
  socketdir: string
  repuser: string
  conninfo: string
  /** One line: the epoch in which this node was primary. */
  lockFile: string
  /** One line: the lowest epoch this node may follow. */
  promiseFile: string
  /** While it exists the agent does not start PostgreSQL: a half-rewound directory must never run. */
  pendingFile: string
}

/** From the primitive's XML; defaults are the agent's own where it has any that do not depend on the release. */
export function parseAgent(xml: string): Agent {
  const primitive = parseXml(xml, 'primitive')
  const pairs = find(primitive, 'instance_attributes', 'nvpair').map(({ attributes }) => attributes)
  const value = (name: string, standard?: string): string => {
    const found = pairs.find((pair) => pair.name === name)?.value ?? standard
    if (found === undefined) throw new Refused(`the resource in the CIB has no parameter ${name}`)
    return found
  }
  const tmpdir = value('tmpdir', '/var/lib/pgcm/agent')
  return {
    pgdata: value('pgdata'),
    bindir: value('bindir'),
    config: value('config'),
    pguser: value('pguser', 'postgres'),
    pgport: value('pgport', '5432'),
    socketdir: value('socketdir', '/var/run/postgresql'),
    repuser: value('repuser', 'replicator'),
    conninfo: value('primary_conninfo_opt', ''),
    lockFile: join(tmpdir, 'PGSQL.lock'),
    promiseFile: join(tmpdir, 'promise'),
    pendingFile: join(tmpdir, 'rejoin.pending'),
  }
}

export async function readAgent(resource: string): Promise<Agent> {
  const xpath = `//primitive[@id='${resource}']`
  const { stdout } = await sh(['cibadmin', '--query', '--xpath', xpath], { timeoutMs: 5000 })
  return parseAgent(stdout)
}

/** Words to run a program of PostgreSQL's as its own user, in an environment of its own. */
export const asPostgres = (agent: Agent, program: string, ...words: string[]): string[] => [
  ...['setpriv', `--reuid=${agent.pguser}`, `--regid=${agent.pguser}`, '--init-groups', '--reset-env', '--'],
  ...[join(agent.bindir, program), ...words],
]
