/** What our resource agent is told in the CIB, and where it keeps its files. */
import { readlink, realpath } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { Failed, Refused } from './errors.ts'
import { CommandFailed, complaint, type ShOptions, type ShResult, sh } from './sh.ts'
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
  const agent = parseAgent(stdout)
  return { ...agent, pgdata: await followed(agent.pgdata) }
}

/** Where a link leads: what is made beside the data directory belongs on its own disk. It may be gone in mid-swap. */
const followed = (path: string): Promise<string> =>
  realpath(path)
    .catch(async () => resolve(dirname(path), await readlink(path)))
    .catch(() => path)

/** The base backup while it is made, and the directory that it takes the place of until it streams. */
export const besides = ({ pgdata }: Agent) => ({
  fresh: `${pgdata}.rejoin`,
  outdated: `${pgdata}.before-rejoin`,
})

/** Words to run a program of PostgreSQL's as its own user, in an environment of its own. It dies with us: nothing may
 * go on writing into a data directory that the next run has begun to look at. */
export const asPostgres = (agent: Agent, program: string, ...words: string[]): string[] => [
  ...['setpriv', `--reuid=${agent.pguser}`, `--regid=${agent.pguser}`, '--init-groups', '--reset-env'],
  ...['--pdeathsig', 'KILL', '--'],
  ...[join(agent.bindir, program), ...words],
]

/**
 * Runs words of asPostgres().
 * @throws Failed in one line that a person can read, with `slow` as its hint where the time was not enough
 */
export async function runTool(argv: string[], options: ShOptions, slow?: string): Promise<ShResult> {
  try {
    return await sh(argv, options)
  } catch (error) {
    if (!(error instanceof CommandFailed) || options.signal?.aborted) throw error
    const program = basename(argv[argv.indexOf('--') + 1] ?? '')
    const why = complaint(error.stderr) || `${error.why} after ${error.elapsedMs} ms`
    throw new Failed(`${program}: ${why}`, /timed out/.test(error.why) ? slow : undefined, { cause: error })
  }
}
