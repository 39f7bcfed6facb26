// no playground
/**
 * `npm run bench agent`: what the resource agent costs while nothing happens. A monitor on the primary and on a standby, with
 * real PostgreSQL, beside the least that any agent could do: one program, and one question by psql. No cluster is needed.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Node, programs, Rig } from '../test/agent/rig.ts'
import { AGENT } from '../test/agent/world.ts'

const { values } = parseArgs({
  options: { runs: { type: 'string', default: '20' }, json: { type: 'boolean', default: false } },
})
const BATCHES = 7

/** A PID namespace of our own, so that the numbers given out there count our processes only; everything ends with it. */
if (process.env.BENCH_ALONE !== '1') {
  const words = [
    'unshare',
    '--pid',
    '--fork',
    '--mount-proc',
    '--kill-child',
    'bash',
    '-c',
    '"$@"; exit $?',
    'bash',
  ]
  const [program = '', ...argv] = [...words, process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const { status } = spawnSync(program, argv, { stdio: 'inherit', env: { ...process.env, BENCH_ALONE: '1' } })
  process.exit(status ?? 1)
}

interface Cost {
  /** Of the command and all that it started, and of PostgreSQL's backends for it. */
  cpuMs: number
  /** Processes made: with PostgreSQL's backends, and the command itself. */
  processes: number
}

const TICK_MS = 10
/** CPU time of the backends of a server that have ended. */
function backendsMs(rig: Rig): number {
  const of = (node: Node) => {
    const fields =
      readFileSync(`/proc/${rig.postmaster(node)}/stat`, 'utf8')
        .split(') ')[1]
        ?.split(' ') ?? []
    return (Number(fields[13]) + Number(fields[14])) * TICK_MS // cutime and cstime, counted from the state
  }
  return of('pg01') + of('pg02')
}

const LOOP = `export LC_ALL=C TIMEFORMAT='%3U %3S'; runs=$1; shift
read -r before < <(echo "$BASHPID")
time for ((i = 0; i < runs; i++)); do "$@" >/dev/null 2>&1 || [ $? -eq 8 ] || exit; done
read -r after < <(echo "$BASHPID")
echo "forks $((after - before - 1))"`

/** The lowest of several batches: whatever else the machine does only adds. */
function cost(rig: Rig, argv: string[], env: NodeJS.ProcessEnv = process.env): Cost {
  const runs = Number(values.runs)
  const batches = Array.from({ length: BATCHES }, () => {
    const before = backendsMs(rig)
    const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-c', LOOP, 'bash', `${runs}`, ...argv], {
      env,
      encoding: 'utf8',
    })
    const [user = NaN, system = NaN] = stderr.trim().split(' ').map(Number)
    const forks = /^forks (\d+)$/m.exec(stdout)?.[1]
    if (status !== 0 || !Number.isFinite(user + system) || !forks)
      throw new Error(`${argv.join(' ')} failed: ${stdout}${stderr}`)
    return {
      cpuMs: ((user + system) * 1000 + backendsMs(rig) - before) / runs,
      processes: Number(forks) / runs,
    }
  })
  const least = (of: (batch: Cost) => number) => Math.min(...batches.map(of))
  return { cpuMs: least(({ cpuMs }) => cpuMs), processes: Math.round(least(({ processes }) => processes)) }
}

/** Times a minute that our role has Pacemaker call a monitor. */
function perMinute(role: string): number {
  const defaults = readFileSync(
    fileURLToPath(new URL('../ansible/roles/pacemaker/defaults/main.yml', import.meta.url)),
    'utf8',
  )
  const seconds = new RegExp(`name: monitor, interval: (\\d+)s, role: ${role},`).exec(defaults)?.[1]
  if (!seconds) throw new Error(`the role has no monitor of ${role}`)
  return 60 / Number(seconds)
}

const { bindir, missing } = programs()
if (missing) throw new Error(`the agent cannot be measured here: ${missing}`)
const rig = await Rig.make(bindir)
try {
  await rig.agents(['pg01', 'pg02', 'pg03'], 'start')
  await rig.elect('pg01')
  await rig.standsWithin(20_000, 'PRI HS:sync HS:potential')
  const monitor = (node: Node) =>
    cost(rig, ['/bin/sh', AGENT, 'monitor'], {
      ...rig.environment(node),
      OCF_RESKEY_CRM_meta_interval: '1000',
    })
  const socket = ['-h', rig.path('pg01', 'sock'), '-p', `${rig.port}`, '-U', 'postgres', '-d', 'postgres']
  const one = cost(rig, ['/bin/true'])
  const question = cost(rig, [join(bindir, 'psql'), ...socket, '-XAtqc', 'SELECT 1'])
  const primary = monitor('pg01')
  const standby = monitor('pg02')

  const two = (value: number) => Number(value.toFixed(2))
  const rounded = ({ cpuMs, processes }: Cost) => ({ cpu_ms: two(cpuMs), processes })
  const minute = ({ cpuMs, processes }: Cost, times: number) => ({
    monitors: times,
    cpu_ms: Math.round(cpuMs * times),
    processes: processes * times,
  })
  const result = {
    floor: { true: rounded(one), psql: rounded(question) },
    monitor: { primary: rounded(primary), standby: rounded(standby) },
    ratio: {
      primary_to_psql: two(primary.cpuMs / question.cpuMs),
      standby_to_psql: two(standby.cpuMs / question.cpuMs),
      primary_to_true: two(primary.cpuMs / one.cpuMs),
      standby_to_true: two(standby.cpuMs / one.cpuMs),
    },
    a_minute_at_rest: {
      primary: minute(primary, perMinute('Promoted')),
      standby: minute(standby, perMinute('Unpromoted')),
    },
  }
  console.log(values.json ? JSON.stringify(result) : result)
} finally {
  rig.destroy()
}
