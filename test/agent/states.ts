/** States that the agent meets, and the words in which its rows are told. */
import { rmSync } from 'node:fs'
import type { Given, World } from './world.ts'

export interface Row {
  /** The action as `World.run` takes it, and the state that it meets. */
  does: string
  when: string
  given: Given
  code: number
  /** What the last reason contains. Default: there is no reason. */
  reason?: string
  /** Everything that is changed, in any order, or any. Default: nothing. */
  changes?: string[] | 'any'
  /** These come in this order: a part of the changes, or of the log where they begin with a command's name. */
  order?: string[]
  /** Files afterwards: their text, or false where there must be none. */
  files?: Record<string, string | false>
  /** What else has to be so: the complaint, if it is not. */
  check?: (world: World) => string | undefined
  slow?: boolean
}

export const OK = 0
export const FAILED = 1
export const UNIMPLEMENTED = 3
export const STAYS_OUT = 4
export const NOT_INSTALLED = 5
export const MISCONFIGURED = 6
export const STOPPED = 7
export const PRIMARY = 8

export const running = { processes: 'postmaster' } as const
export const standby: Given = {
  ...running,
  state: 'standby streaming 10',
  promise: 10,
  promoted: { pg02: 10 },
}
export const alone: Given = { ...standby, state: 'standby alone' }
export const primary: Given = {
  ...running,
  state: 'primary pg02:streaming:sync pg03:streaming:potential',
  lock: 17,
  promise: 17,
  promoted: { pg01: 17, pg02: 10 },
}
export const lonely: Given = { ...primary, state: 'primary ' }
export const died: Given = { lock: 17, promise: 17, promoted: { pg01: 17, pg02: 10 } }
export const children: Given = { ...primary, processes: 'children' }
export const PG02_IS_PRIMARY = { 'status@pg02': 'PRI' }
export const TWO_STANDBYS = { 'status@pg02': 'HS:sync', 'status@pg03': 'HS:potential' }
export const NO_ANSWER = 'PostgreSQL does not answer: '

export const stands = (node: string, status: string, dataStatus: string, score: number | string) => [
  `status@${node}=${status}`,
  `data-status@${node}=${dataStatus}`,
  `score@${node}=${score}`,
]
export const isPrimary = ['epoch@pg01=17', ...stands('pg01', 'PRI', 'LATEST', 1000)]
export const isStopped = stands('pg01', 'STOP', 'DISCONNECT', '-INFINITY')
export const isSync = (node: string) => stands(node, 'HS:sync', 'STREAMING|SYNC', 100)
export const isPotential = (node: string) => stands(node, 'HS:potential', 'STREAMING|POTENTIAL', 10)
export const isAsync = (node: string) => stands(node, 'HS:async', 'STREAMING|ASYNC', '-INFINITY')
export const isGone = (node: string) => [`data-status@${node}=DISCONNECT`, `score@${node}=-INFINITY`]
export const started = (score: number | string, promise = 0) => [
  'start',
  'status@pg01=HS:alone',
  `vote@pg01=${promise}:0:0 private`,
  `score@pg01=${score}`,
  ...(score === 10 ? ['position'] : []), // without a primary its own WAL comes first
]

export const conf = (primary: string, sync = 'FIRST 1') => `# Written by the resource agent.
primary_conninfo = '${primary}'
synchronous_standby_names = '${sync} ("pg01", "pg02", "pg03")'`
export const to = (number: number, from = 'pg01') =>
  conf(`host=127.0.0.1${number} port=5432 user=replicator application_name=${from}`)

export const FATAL = {
  starting: 'FATAL:  the database system is starting up',
  inconsistent: 'FATAL:  the database system is not yet accepting connections',
  recovering: 'FATAL:  the database system is in recovery mode',
  leaving: 'FATAL:  the database system is shutting down',
  full: 'FATAL:  sorry, too many clients already',
}

export const lives = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** The pid file names this test's own process, which is no PostgreSQL. */
export const foreignPid = (world: World) => world.write('data/postmaster.pid', process.pid)

/** The pid file names the postmaster of another data directory, which must be left alone. */
export const otherPostgres = (world: World) => {
  world.write('data/postmaster.pid', world.postmaster)
  world.move('data', 'other')
  rmSync(world.path('run/pgcm-Postgresql/inode'))
  world.write('data/PG_VERSION', 17)
  world.write('data/postmaster.pid', world.read('other/postmaster.pid').split('\n')[0] ?? '')
}
/** Somebody else writes something half a second later. */
export const later = (file: string, text: string | number) => (world: World) => {
  setTimeout(() => world.write(file, text), 500)
}
export const patient = { parameters: { vote_timeout: '9' } }
export const removed = (world: World) => rmSync(world.path('data'), { recursive: true })
export const withoutPrograms = (world: World) => rmSync(world.path('bindir'), { recursive: true })
export const noLongerNamed = { parameters: { node_list: 'pg02 pg03 pg04' } }
