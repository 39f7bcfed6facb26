/** What the resource agent does in each state: exit code, reason, and what it changes. Told by test/agent.test.ts. */
import { rmSync, statSync } from 'node:fs'
import type { Given, World } from './agent-world.ts'

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

const OK = 0
const FAILED = 1
const UNIMPLEMENTED = 3
const STAYS_OUT = 4
const NOT_INSTALLED = 5
const MISCONFIGURED = 6
const STOPPED = 7
const PRIMARY = 8

const running = { processes: 'postmaster' } as const
const standby: Given = { ...running, state: 'standby streaming 10', promise: 10, promoted: { pg02: 10 } }
const alone: Given = { ...standby, state: 'standby alone' }
const primary: Given = {
  ...running,
  state: 'primary pg02:streaming:sync pg03:streaming:potential',
  lock: 17,
  promise: 17,
  promoted: { pg01: 17, pg02: 10 },
}
const lonely: Given = { ...primary, state: 'primary ' }
const died: Given = { lock: 17, promise: 17, promoted: { pg01: 17, pg02: 10 } }
const children: Given = { ...primary, processes: 'children' }
const PG02_IS_PRIMARY = { 'status@pg02': 'PRI' }
const TWO_STANDBYS = { 'status@pg02': 'HS:sync', 'status@pg03': 'HS:potential' }
const NO_ANSWER = 'PostgreSQL does not answer: '

const stands = (node: string, status: string, dataStatus: string, score: number | string) => [
  `status@${node}=${status}`,
  `data-status@${node}=${dataStatus}`,
  `score@${node}=${score}`,
]
const isPrimary = stands('pg01', 'PRI', 'LATEST', 1000)
const isStopped = stands('pg01', 'STOP', 'DISCONNECT', '-INFINITY')
const isSync = (node: string) => stands(node, 'HS:sync', 'STREAMING|SYNC', 100)
const isPotential = (node: string) => stands(node, 'HS:potential', 'STREAMING|POTENTIAL', 10)
const isAsync = (node: string) => stands(node, 'HS:async', 'STREAMING|ASYNC', '-INFINITY')
const isGone = (node: string) => [`data-status@${node}=DISCONNECT`, `score@${node}=-INFINITY`]
const started = (score: number | string, promise = 0) => [
  'start',
  'status@pg01=HS:alone',
  `vote@pg01=${promise}:0:0 private`,
  `score@pg01=${score}`,
]

const conf = (primary: string, sync = 'FIRST 1') => `# Written by the resource agent.
primary_conninfo = '${primary}'
synchronous_standby_names = '${sync} ("pg01", "pg02", "pg03")'`
const to = (number: number, from = 'pg01') =>
  conf(`host=127.0.0.1${number} port=5432 user=replicator application_name=${from}`)

const FATAL = {
  starting: 'FATAL:  the database system is starting up',
  inconsistent: 'FATAL:  the database system is not yet accepting connections',
  recovering: 'FATAL:  the database system is in recovery mode',
  leaving: 'FATAL:  the database system is shutting down',
  full: 'FATAL:  sorry, too many clients already',
}

const lives = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** The pid file names this test's own process, which is no PostgreSQL. */
const foreignPid = (world: World) => world.write('data/postmaster.pid', process.pid)

/** The pid file names the postmaster of another data directory, which must be left alone. */
const otherPostgres = (world: World) => {
  world.write('data/postmaster.pid', world.postmaster)
  world.move('data', 'other')
  rmSync(world.path('run/pgcm-Postgresql/inode'))
  world.write('data/PG_VERSION', 17)
  world.write('data/postmaster.pid', world.read('other/postmaster.pid').split('\n')[0] ?? '')
}
/** Somebody else writes something half a second later. */
const later = (file: string, text: string | number) => (world: World) => {
  setTimeout(() => world.write(file, text), 500)
}
const patient = { parameters: { vote_timeout: '9' } }
const removed = (world: World) => rmSync(world.path('data'), { recursive: true })
const withoutPrograms = (world: World) => rmSync(world.path('bindir'), { recursive: true })
const noLongerNamed = { parameters: { node_list: 'pg02 pg03 pg04' } }

const monitors: Row[] = [
  { does: 'probe', when: 'it is stopped', given: {}, code: STOPPED },
  {
    does: 'probe',
    when: 'it is stopped and nothing is installed',
    given: { twist: withoutPrograms },
    code: STOPPED,
  },
  { does: 'probe', when: 'a standby runs', given: alone, code: OK },
  { does: 'probe', when: 'a primary runs', given: primary, code: PRIMARY },
  { does: 'probe', when: 'a former primary may not start', given: { ...died, pending: true }, code: STOPPED },
  { does: 'probe', when: 'only children run', given: children, code: FAILED, reason: 'postmaster is gone' },

  { does: 'monitor', when: 'a standby died', given: { promise: 10, promoted: { pg02: 10 } }, code: STOPPED },
  { does: 'monitor', when: 'a primary died and nobody else runs', given: died, code: STOPPED },
  {
    does: 'monitor',
    when: 'a primary died and one other runs, too few to elect',
    given: { ...died, attributes: { 'status@pg02': 'HS:sync', 'status@pg03': 'STOP' } },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'a primary died and the others can elect without it',
    given: { ...died, attributes: TWO_STANDBYS },
    code: STAYS_OUT,
    reason: 'was primary of epoch 17 and stopped: run pgcm-rejoin on pg01',
  },
  {
    does: 'monitor',
    when: 'it is stopped, the cluster has moved on, and there is no primary any more',
    given: { ...died, promoted: { pg01: 17, pg02: 18 } },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'it is stopped and there is a primary of its own epoch',
    given: { ...died, attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: 'was primary of epoch 17 and pg02 is primary now: run pgcm-rejoin on pg01',
  },
  {
    does: 'monitor',
    when: 'it is stopped and a rejoin was interrupted',
    given: { pending: true },
    code: STAYS_OUT,
    reason: 'pgcm-rejoin was interrupted: run it again',
  },

  {
    does: 'monitor',
    when: 'a standby streams since now',
    given: standby,
    code: OK,
    files: { 'run/pgcm-Postgresql/state': 'standby streaming 10' },
  },
  {
    does: 'monitor',
    when: 'a standby streams as before',
    given: { ...standby, run: { state: 'standby streaming 10' } },
    code: OK,
  },
  {
    does: 'monitor',
    when: 'a former primary streams the next epoch: it was left behind in good order',
    given: { ...standby, lock: 9 },
    code: OK,
    files: { 'tmp/PGSQL.lock': false },
  },
  {
    does: 'monitor',
    when: 'a former primary streams its own epoch: its data is not proven yet',
    given: { ...standby, lock: 10 },
    code: OK,
    files: { 'tmp/PGSQL.lock': '10' },
  },
  {
    does: 'monitor',
    when: 'a standby is alone and there is a primary',
    given: { ...alone, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position', 'HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'monitor',
    when: 'a standby is alone and there is a primary of an epoch above its promise',
    given: { ...alone, promoted: { pg02: 18 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position', 'HUP'],
    order: ['sync promise.new', 'HUP'],
    files: { 'tmp/promise': '18', 'tmp/replication.conf': to(2) },
  },
  {
    does: 'monitor',
    when: 'a standby holds WAL that the history of the primary has not',
    given: { ...alone, history: [10, [18, 10, '0/300']], attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: "holds WAL that the primary's history has not: run pgcm-rejoin on pg01",
    changes: ['position'],
  },
  {
    does: 'monitor',
    when: 'a standby holds just the WAL at which the primary went its own way',
    given: { ...alone, history: [10, [18, 10, '0/3E8']], attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position', 'HUP'],
  },
  {
    does: 'monitor',
    when: 'a standby holds WAL of a timeline that the primary never had',
    given: { ...alone, history: [9, [18, 9, '0/3E8']], attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: 'run pgcm-rejoin on pg01',
    changes: ['position'],
  },
  {
    does: 'monitor',
    when: 'a standby has heard of placeholders only',
    given: { ...alone, history: [10], placeholders: [11, 12], attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position', 'HUP'],
  },
  {
    does: 'monitor',
    when: 'a standby is alone and the names of the nodes are not known',
    given: { ...alone, attributes: PG02_IS_PRIMARY, broken: { names: '' } },
    code: OK,
    changes: ['position', 'HUP'],
    files: { 'tmp/replication.conf': to(2).replace('127.0.0.12', 'pg02') },
  },
  {
    does: 'monitor',
    when: 'a standby is alone and two nodes say that they are primary',
    given: { ...alone, attributes: { ...PG02_IS_PRIMARY, 'status@pg03': 'PRI', 'score@pg01': '10' } },
    code: OK,
    files: { 'tmp/replication.conf': false },
  },
  {
    does: 'monitor',
    when: 'a standby is alone and was told to promote',
    given: { ...alone, run: { promoting: 'postmaster' }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position'],
    files: { 'tmp/replication.conf': false },
  },
  {
    does: 'monitor',
    when: 'a standby has promised more than the primary',
    given: { ...alone, promise: 11, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['position'],
    files: { 'tmp/replication.conf': false },
  },
  {
    does: 'monitor',
    when: 'a standby is alone and the CIB cannot be read',
    given: { ...alone, attributes: PG02_IS_PRIMARY, broken: { cib: '' } },
    code: OK,
    changes: ['position'],
    files: { 'tmp/replication.conf': false },
  },
  { does: 'monitor', when: 'there is no primary', given: alone, code: OK, changes: ['score@pg01=10'] },
  {
    does: 'monitor',
    when: 'there is no primary and it was not eligible',
    given: { ...alone, attributes: { 'score@pg01': '-INFINITY' } },
    code: OK,
    changes: ['score@pg01=10'],
  },
  {
    does: 'monitor',
    when: 'there is no primary and it has lost a proof',
    given: { ...alone, attributes: { 'score@pg01': '1' } },
    code: OK,
  },

  {
    does: 'monitor',
    when: 'a primary has two standbys since now',
    given: primary,
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isPotential('pg03')],
    files: { 'run/pgcm-Postgresql/state': 'primary pg02:streaming:sync pg03:streaming:potential' },
  },
  {
    does: 'monitor',
    when: 'a primary has the standbys it had',
    given: { ...primary, run: { state: 'primary pg02:streaming:sync pg03:streaming:potential' } },
    code: PRIMARY,
  },
  {
    does: 'monitor',
    when: 'the potential standby of a primary took the place of the sync one',
    given: {
      ...primary,
      state: 'primary pg03:streaming:sync',
      run: { state: 'primary pg02:streaming:sync pg03:streaming:potential' },
    },
    code: PRIMARY,
    changes: [...isPrimary, ...isGone('pg02'), ...isSync('pg03')],
  },
  {
    does: 'monitor',
    when: 'a standby of a primary is catching up',
    given: { ...primary, state: 'primary pg02:streaming:sync pg03:catchup:potential' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isAsync('pg03')],
  },
  {
    does: 'monitor',
    when: 'both standbys of a primary count',
    given: { ...primary, state: 'primary pg02:streaming:quorum pg03:streaming:quorum' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isSync('pg03')],
  },
  {
    does: 'monitor',
    when: 'somebody else streams from a primary',
    given: { ...primary, state: 'primary backup:streaming:async pg02:streaming:sync' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isGone('pg03')],
  },
  {
    does: 'monitor',
    when: 'a primary is alone',
    given: lonely,
    code: PRIMARY,
    changes: [...isPrimary, ...isGone('pg02'), ...isGone('pg03')],
  },
  {
    does: 'monitor',
    when: 'a primary is alone and was voted for',
    given: { ...lonely, run: { state: 'primary ' }, attributes: { 'vote@pg02': '17:10:1000' } },
    code: PRIMARY,
  },
  {
    does: 'monitor',
    when: 'a primary is alone since a call came to nothing',
    given: { ...lonely, run: { state: 'primary ' }, attributes: { 'vote@pg02': '19:17:1000' } },
    code: FAILED,
    reason: 'pg02 has promised epoch 19 and cannot follow epoch 17: a new election is needed',
  },
  {
    does: 'monitor',
    when: 'a primary has its sync standby and the other one has promised more',
    given: { ...primary, state: 'primary pg02:streaming:sync', attributes: { 'vote@pg03': '19:17:1000' } },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isGone('pg03')],
  },

  {
    does: 'monitor',
    when: 'it starts, and then streams',
    given: { ...standby, state: [FATAL.starting, FATAL.starting, 'standby streaming 10'] },
    code: OK,
  },
  {
    does: 'monitor',
    when: 'it waits for WAL to become consistent',
    given: { ...standby, state: FATAL.inconsistent },
    code: OK,
  },
  {
    does: 'monitor',
    when: 'a primary restarts after the crash of a backend',
    given: {
      ...primary,
      state: [FATAL.recovering, 'primary pg02:streaming:sync'],
      run: { state: 'primary pg02:streaming:sync' },
    },
    code: PRIMARY,
  },
  {
    does: 'monitor',
    when: 'it does not answer',
    given: { ...primary, state: 'hung' },
    code: FAILED,
    reason: `${NO_ANSWER}psql: error: connection to server on socket`,
  },
  {
    does: 'probe',
    when: 'it does not answer',
    given: { ...primary, state: 'hung' },
    code: FAILED,
    reason: NO_ANSWER,
  },
  {
    does: 'monitor',
    when: 'every connection comes with a warning, as after an upgrade of the C library',
    given: { ...standby, run: { state: 'standby streaming 10' }, broken: { warning: '' } },
    code: OK,
  },
  {
    does: 'monitor',
    when: 'all connections are taken',
    given: { ...primary, state: FATAL.full },
    code: FAILED,
    reason: 'too many clients',
  },
  {
    does: 'monitor',
    when: 'the programs are gone',
    given: { ...standby, twist: withoutPrograms },
    code: FAILED,
    reason: NO_ANSWER,
  },
  {
    does: 'monitor',
    when: 'the postmaster is gone, its children are not',
    given: children,
    code: FAILED,
    reason: 'the postmaster is gone, some of its processes are not',
  },
  {
    does: 'monitor',
    when: 'the pid file is gone',
    given: { ...primary, twist: (world) => rmSync(world.path('data/postmaster.pid')) },
    code: FAILED,
    reason: 'postmaster is gone',
  },
  {
    does: 'monitor',
    when: 'the pid file is stale',
    given: { twist: (world) => world.write('data/postmaster.pid', 4194305) },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'the pid file is empty',
    given: { twist: (world) => world.write('data/postmaster.pid', '') },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'the pid file names another program',
    given: { twist: foreignPid },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'the pid file names another program and PostgreSQL runs',
    given: { ...primary, twist: foreignPid },
    code: FAILED,
    reason: 'postmaster is gone',
  },
  {
    does: 'monitor',
    when: 'the data directory was moved away under it',
    given: { ...primary, twist: (world) => world.move('data', 'moved') },
    code: FAILED,
    reason: 'postmaster is gone',
  },
  {
    does: 'monitor',
    when: 'the data directory was removed under it',
    given: { ...primary, twist: removed },
    code: FAILED,
    reason: 'postmaster is gone',
  },
  {
    does: 'monitor',
    when: 'this node is not named any more',
    given: { ...standby, ...noLongerNamed },
    code: OK,
  },
]

const starts: Row[] = [
  {
    does: 'start',
    when: 'there is no primary',
    given: {},
    code: OK,
    changes: started(10),
    files: { 'tmp/replication.conf': conf(''), 'data/standby.signal': '' },
  },
  {
    does: 'start',
    when: 'there is a primary',
    given: { promise: 10, promoted: { pg02: 10 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: started('-INFINITY', 10),
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'start',
    when: 'it has promised more than the primary',
    given: { promise: 11, promoted: { pg02: 10 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: started('-INFINITY', 11),
    files: { 'tmp/replication.conf': conf('') },
  },
  {
    does: 'start',
    when: 'it was the last primary: the whole cluster lost power',
    given: died,
    code: OK,
    changes: started(10, 17),
    files: { 'tmp/PGSQL.lock': '17', 'data/standby.signal': '' },
  },
  {
    does: 'start',
    when: 'its lock file is newer than the CIB, which was restored',
    given: { ...died, promoted: { pg02: 10 } },
    code: OK,
    changes: started(10, 17),
  },
  {
    does: 'start',
    when: 'the cluster has moved on, and there is no primary any more: its vote may be needed',
    given: { ...died, promoted: { pg01: 17, pg02: 18 } },
    code: OK,
    changes: started(10, 17),
    files: { 'tmp/PGSQL.lock': '17' },
  },
  {
    does: 'start',
    when: 'the lock file is empty, and there is a primary',
    given: { ...died, lock: '', attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: 'was primary of epoch 0 and pg02 is primary now',
    changes: isStopped,
  },
  {
    does: 'start',
    when: 'there is another primary of its epoch',
    given: { ...died, attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: 'pg02 is primary now',
    changes: isStopped,
  },
  {
    does: 'start',
    when: 'a rejoin was interrupted',
    given: { pending: true },
    code: STAYS_OUT,
    reason: 'run it again',
    changes: isStopped,
  },
  {
    does: 'start',
    when: 'the CIB cannot be read: it follows nobody',
    given: { promise: 10, attributes: PG02_IS_PRIMARY, broken: { cib: '' } },
    code: OK,
    changes: started('-INFINITY', 10),
    files: { 'tmp/replication.conf': conf('') },
  },
  {
    does: 'start',
    when: 'two nodes say that they are primary: it follows neither',
    given: { promoted: { pg02: 10 }, attributes: { ...PG02_IS_PRIMARY, 'status@pg03': 'PRI' } },
    code: OK,
    changes: started(10),
    files: { 'tmp/replication.conf': conf('') },
  },
  {
    does: 'start',
    when: 'it died in the middle of everything',
    given: {
      run: { state: 'primary ', call: 9, voted: 9, promoting: 4711 },
      history: [10],
      placeholders: [9, 11, 12],
      twist: (world) => {
        world.write('data/recovery.signal', '')
        world.write('data/postmaster.pid', 4194305)
      },
    },
    code: OK,
    changes: started(10),
    files: {
      'run/pgcm-Postgresql/state': false,
      'run/pgcm-Postgresql/call': false,
      'run/pgcm-Postgresql/voted': false,
      'run/pgcm-Postgresql/promoting': false,
      'data/recovery.signal': false,
    },
    check: (world) => (world.timelines.join() === '9?,10' ? undefined : `history files ${world.timelines}`),
  },
  {
    does: 'start',
    when: 'the pid file of its last life names a living program',
    given: { twist: foreignPid },
    code: OK,
    changes: started(10),
  },
  {
    does: 'start',
    when: 'PostgreSQL takes a while',
    given: { state: [FATAL.starting, FATAL.starting, FATAL.starting, 'standby alone'] },
    code: OK,
    changes: started(10),
  },
  {
    does: 'start',
    when: 'PostgreSQL needs WAL from a primary that is yet to be made',
    given: { state: FATAL.inconsistent },
    code: OK,
    changes: started(10),
    slow: true,
  },
  {
    does: 'start',
    when: 'PostgreSQL dies',
    given: { broken: { start: '' } },
    code: FAILED,
    reason: 'PostgreSQL did not start: FATAL:  could not map',
    changes: ['start'],
  },
  { does: 'start', when: 'a standby runs', given: standby, code: OK },
  {
    does: 'start',
    when: 'a primary runs',
    given: primary,
    code: FAILED,
    reason: 'PostgreSQL runs already, but not as a standby',
  },
  {
    does: 'start',
    when: 'it does not answer',
    given: { ...standby, state: 'hung' },
    code: FAILED,
    reason: 'PostgreSQL runs already',
  },
  {
    does: 'start',
    when: 'children of the last postmaster run',
    given: children,
    code: FAILED,
    reason: 'PostgreSQL runs already',
  },
  {
    does: 'start',
    when: 'sync_method is any',
    given: { parameters: { sync_method: 'any' } },
    code: OK,
    changes: started(10),
    files: { 'tmp/replication.conf': conf('', 'ANY 1') },
  },
  {
    does: 'start',
    when: 'there are five nodes',
    given: { parameters: { node_list: 'pg01 pg02 pg03 pg04 pg05' } },
    code: OK,
    changes: started(10),
    files: {
      'tmp/replication.conf': conf('', 'FIRST 2').replace('"pg03"', '"pg03", "pg04", "pg05"'),
    },
  },
  {
    does: 'start',
    when: 'standby.signal cannot be given to PostgreSQL: the disk is full',
    given: { broken: { chown: '' } },
    code: FAILED,
    reason: 'cannot write',
  },
  {
    does: 'start',
    when: 'replication.conf cannot be written: what it follows now is nobody knows whom',
    given: { twist: (world) => world.write('tmp/replication.conf.new/in-the-way', '') },
    code: FAILED,
    reason: 'tmp/replication.conf',
  },
  {
    does: 'start',
    when: 'connections need a value with a space in it',
    given: {
      promoted: { pg02: 10 },
      attributes: PG02_IS_PRIMARY,
      parameters: { primary_conninfo_opt: "passfile='/a b'" },
    },
    code: OK,
    changes: started('-INFINITY', 10),
    files: { 'tmp/replication.conf': to(2).replace('=pg01', "=pg01 passfile=''/a b''") },
  },
  {
    does: 'start',
    when: 'connections need more than host, port and user',
    given: {
      promoted: { pg02: 10 },
      attributes: PG02_IS_PRIMARY,
      parameters: { primary_conninfo_opt: 'sslmode=require', pgport: '5433', repuser: 'copy' },
    },
    code: OK,
    changes: started('-INFINITY', 10),
    files: {
      'tmp/replication.conf': conf(
        'host=127.0.0.12 port=5433 user=copy application_name=pg01 sslmode=require',
      ),
    },
  },
]

const wrong: Row[] = [
  ...(
    [
      [
        'this node is not named',
        { node_list: 'pg02 pg03 pg04' },
        'does not name this node, pg01',
        MISCONFIGURED,
      ],
      ['no node is named', { node_list: ' ' }, 'does not name this node, pg01', MISCONFIGURED],
      [
        'too many nodes are named',
        { node_list: 'pg01 b c d e f g h' },
        'is not three to seven different nodes',
        MISCONFIGURED,
      ],
      ['too few nodes are named', { node_list: 'pg01 pg02' }, 'is not three to seven', MISCONFIGURED],
      [
        'a node is named twice',
        { node_list: 'pg01 pg02 pg01' },
        'is not three to seven different',
        MISCONFIGURED,
      ],
      ['sync_method is unknown', { sync_method: 'all' }, "sync_method is 'all': first or any", MISCONFIGURED],
      ['the port is no number', { pgport: 'postgres' }, 'pgport and vote_timeout are numbers', MISCONFIGURED],
      [
        'the time-out is no number',
        { vote_timeout: '3s' },
        'pgport and vote_timeout are numbers',
        MISCONFIGURED,
      ],
      ['there is no PostgreSQL', { bindir: '/nowhere' }, 'no PostgreSQL in /nowhere', NOT_INSTALLED],
      ['there is no data directory', { pgdata: '/nowhere' }, 'no data directory at /nowhere', NOT_INSTALLED],
      ['there is no configuration', { config: '/nowhere' }, '/nowhere', NOT_INSTALLED],
    ] as [string, Record<string, string>, string, number][]
  ).flatMap(([when, parameters, reason, code]) =>
    ['validate-all', 'start'].map((does) => ({ does, when, given: { parameters }, code, reason })),
  ),
  {
    does: 'validate-all',
    when: 'the configuration does not include our file',
    given: { twist: (world) => world.write('postgresql.conf', "include_if_exists = 'other.conf'") },
    code: NOT_INSTALLED,
    reason: 'tmp/replication.conf',
  },
  { does: 'validate-all', when: 'all is well', given: {}, code: OK },
  { does: 'validate-all', when: 'the cluster layer tells the name', given: {}, code: OK },
  {
    does: 'monitor',
    when: 'nobody tells the name of this node',
    given: { ...primary, broken: { corosync: '' } },
    code: FAILED,
    reason: "crm_node does not tell this node's name",
  },
  { does: 'migrate_to', when: 'it is asked for what it has not', given: {}, code: UNIMPLEMENTED },
]

const stops: Row[] = [
  { does: 'stop', when: 'it is stopped', given: {}, code: OK, changes: isStopped },
  {
    does: 'stop',
    when: 'a standby runs',
    given: { ...standby, run: { state: 'standby streaming 10', call: 9, voted: 9 } },
    code: OK,
    changes: ['INT', ...isStopped],
    files: {
      'run/pgcm-Postgresql/state': false,
      'run/pgcm-Postgresql/call': false,
      'run/pgcm-Postgresql/voted': false,
    },
  },
  {
    does: 'stop',
    when: 'a primary runs',
    given: primary,
    code: OK,
    changes: ['INT', ...isStopped],
    files: { 'tmp/PGSQL.lock': '17' },
  },
  {
    does: 'stop',
    when: 'its postmaster is frozen',
    given: { ...primary, state: 'hung', twist: (world) => process.kill(world.postmaster, 'SIGSTOP') },
    code: OK,
    changes: ['INT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'PostgreSQL ignores everything',
    given: { ...primary, broken: { deaf: '' } },
    code: OK,
    changes: isStopped,
  },
  {
    does: 'stop',
    when: 'children of a dead postmaster run',
    given: children,
    code: OK,
    changes: ['QUIT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'children of a dead postmaster ignore everything',
    given: { ...children, broken: { deaf: '' } },
    code: OK,
    changes: isStopped,
  },
  {
    does: 'stop',
    when: 'the pid file is gone',
    given: { ...primary, twist: (world) => rmSync(world.path('data/postmaster.pid')) },
    code: OK,
    changes: ['QUIT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'the pid file names another program',
    given: { twist: foreignPid },
    code: OK,
    changes: isStopped,
  },
  {
    does: 'stop',
    when: 'the pid file names another PostgreSQL',
    given: { ...running, twist: otherPostgres },
    code: OK,
    changes: isStopped,
    check: (world) => (lives(world.postmaster) ? undefined : 'the other PostgreSQL was ended'),
  },
  {
    does: 'stop',
    when: 'the data directory was moved away under it',
    given: { ...primary, twist: (world) => world.move('data', 'moved') },
    code: OK,
    changes: ['QUIT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'the data directory was removed under it',
    given: { ...primary, twist: removed },
    code: OK,
    changes: ['QUIT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'the programs are gone',
    given: { ...primary, twist: withoutPrograms },
    code: OK,
    changes: ['INT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'this node is not named any more',
    given: { ...primary, ...noLongerNamed },
    code: OK,
    changes: ['INT', ...isStopped],
  },
  {
    does: 'stop',
    when: 'nobody tells the name of this node',
    given: { ...primary, broken: { corosync: '' } },
    code: FAILED,
    reason: 'crm_node',
  },
  {
    does: 'stop',
    when: 'its directories cannot be made',
    given: { ...primary, parameters: { tmpdir: '/proc/nowhere' } },
    code: FAILED,
    reason: 'cannot make',
  },
]

const demotes: Row[] = [
  {
    does: 'demote',
    when: 'a primary runs: it tells where it ended, and nothing that would make Pacemaker think again',
    given: { ...primary, control: ['shut down', '1/3000028'] },
    code: OK,
    changes: ['INT', 'shutdown@pg01=17:4345298984 private'],
  },
  {
    does: 'demote',
    when: 'a primary runs that does not end in order',
    given: { ...primary, control: ['in production', '1/3000028'] },
    code: OK,
    changes: ['INT'],
  },
  {
    does: 'demote',
    when: 'a primary does not answer',
    given: {
      ...primary,
      state: 'hung',
      twist: (world) => rmSync(world.path('data/standby.signal'), { force: true }),
    },
    code: OK,
    changes: ['INT'],
  },
  { does: 'demote', when: 'a standby runs', given: standby, code: OK },
  {
    does: 'demote',
    when: 'a standby was told to promote, and still may',
    given: { ...alone, run: { promoting: 'postmaster' }, control: ['shut down in recovery', '0/3000028'] },
    code: OK,
    changes: ['INT'],
    files: { 'run/pgcm-Postgresql/promoting': false },
  },
  { does: 'demote', when: 'it is stopped', given: died, code: OK },
  { does: 'demote', when: 'children of a dead primary run', given: children, code: OK, changes: ['QUIT'] },
  {
    does: 'demote',
    when: 'the data directory was moved away under it',
    given: { ...primary, twist: (world) => world.move('data', 'moved') },
    code: OK,
    changes: ['QUIT'],
  },
  {
    does: 'demote',
    when: 'the data directory was removed under it',
    given: { ...primary, twist: removed },
    code: OK,
    changes: ['QUIT'],
  },
]

const votes = (own: string, ...others: string[]): Record<string, string> =>
  Object.fromEntries([own, ...others].map((vote, index) => [`vote@pg0${index + 1}`, vote]))
/** pg01 has called epoch 17 and is cut off; it holds the WAL of epoch 10 up to 1000. */
const candidate: Given = {
  ...alone,
  promise: 17,
  run: { call: 17, voted: 17 },
  history: [10],
  attributes: { 'call@pg01': '17', ...votes('17:10:1000', '17:10:1000') },
}
const asking = (attributes: Record<string, string>): Given => ({
  ...candidate,
  attributes: { 'call@pg01': '17', ...attributes },
})
const gaveUp = ['call@pg01 withdrawn', 'vote@pg01 withdrawn']
const isPromoted = [
  'cib promoted-pg01=17',
  'promote',
  ...isPrimary,
  'master-baseline@pg01=00000000000003E8',
  ...gaveUp,
]
const lost = (winner: string, score = 100) => [`score@${winner}=${score}`, 'score@pg01=1', ...gaveUp]

const promotes: Row[] = [
  {
    does: 'promote',
    when: 'two of three have voted and hold no more',
    given: candidate,
    code: OK,
    changes: isPromoted,
    order: ['sync PGSQL.lock.new', 'promote', 'status@pg01=PRI'],
    files: {
      'tmp/PGSQL.lock': '17',
      'run/pgcm-Postgresql/call': false,
      'run/pgcm-Postgresql/promoting': false,
    },
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  {
    does: 'promote',
    when: 'all three have voted',
    given: asking(votes('17:10:1000', '17:10:1000', '17:10:999')),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'another one has more WAL of an older timeline',
    given: asking(votes('17:10:1000', '17:3:5000')),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the vote that it needs comes late',
    given: {
      ...asking(votes('17:10:1000')),
      ...patient,
      twist: later('attrs/Postgresql-vote@pg03', '17:10:1000'),
    },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'nobody else has voted',
    given: asking(votes('17:10:1000')),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2 of: pg01 pg02 pg03',
    changes: ['cleanup pg02', 'cleanup pg03', ...gaveUp],
  },
  {
    does: 'promote',
    when: 'it has no vote of its own',
    given: asking({ 'vote@pg02': '17:10:1', 'vote@pg03': '17:10:1' }),
    code: FAILED,
    reason: 'epoch 17 has votes of pg02 pg03, needs',
    changes: ['cleanup pg01', ...gaveUp],
  },
  {
    does: 'promote',
    when: 'the others voted for another epoch',
    given: asking(votes('17:10:1000', '11:10:1000', '161:10:1000')),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2',
    changes: ['cleanup pg02', 'cleanup pg03', ...gaveUp],
  },
  {
    does: 'promote',
    when: 'the others could not tell what they hold',
    given: asking(votes('17:10:1000', '17:0:0', '17:0:0')),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2',
    changes: ['cleanup pg02', 'cleanup pg03', ...gaveUp],
  },
  {
    does: 'promote',
    when: 'three of five are needed and two have voted',
    given: { ...candidate, parameters: { node_list: 'pg01 pg02 pg03 pg04 pg05' } },
    code: FAILED,
    reason: 'epoch 17 has votes of pg01 pg02, needs 3 of: pg01 pg02 pg03 pg04 pg05',
    changes: ['cleanup pg03', 'cleanup pg04', 'cleanup pg05', ...gaveUp],
  },
  {
    does: 'promote',
    when: 'nothing was called',
    given: { ...alone, attributes: votes('11:10:1000', '11:10:1000') },
    code: FAILED,
    reason: 'no epoch was called for this promotion',
  },
  {
    does: 'promote',
    when: 'another one has one byte more',
    given: asking(votes('17:10:1000', '17:10:1000', '17:10:1001')),
    code: FAILED,
    reason: 'pg03 holds more WAL than pg01, so it has to be primary',
    changes: lost('pg03'),
  },
  {
    does: 'promote',
    when: 'both others have more: the better one wins',
    given: asking(votes('17:10:1000', '17:10:3000', '17:10:2000')),
    code: FAILED,
    reason: 'pg02 holds more WAL than pg01',
    changes: lost('pg02'),
  },
  {
    does: 'promote',
    when: 'every connection comes with a warning',
    given: { ...candidate, broken: { warning: '' } },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'it is primary already',
    given: primary,
    code: OK,
  },
  {
    does: 'promote',
    when: 'another one has less WAL, of a newer timeline',
    given: asking(votes('17:10:1000', '17:11:900')),
    code: FAILED,
    reason: 'pg02 holds more WAL than pg01',
    changes: lost('pg02'),
  },
  {
    does: 'promote',
    when: 'it has promised a newer epoch meanwhile',
    given: { ...candidate, promise: 18 },
    code: FAILED,
    reason: 'promised a newer epoch meanwhile',
    changes: 'any',
  },
  {
    does: 'promote',
    when: 'the old primary was shut down and all of it was received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'shutdown@pg02': '10:999' }),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the old primary was shut down and its end was not received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'shutdown@pg03': '10:1000' }),
    code: FAILED,
    reason: 'pg03 has WAL up to 3E8 that pg01 has not received: pg03 has to be primary again',
    changes: ['cleanup pg03', ...lost('pg03', 1000)],
  },
  {
    does: 'promote',
    when: 'a primary of long ago was shut down further on',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'shutdown@pg03': '3:5000' }),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the old primary was shut down in an epoch that was never received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'shutdown@pg03': '11:900' }),
    code: FAILED,
    reason: 'pg03 has to be primary again',
    changes: ['cleanup pg03', ...lost('pg03', 1000)],
  },
  {
    does: 'promote',
    when: 'its own shutdown is the last thing that happened',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'shutdown@pg01': '10:1000' }),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the disk is full',
    given: { ...candidate, broken: { disk: '' } },
    code: FAILED,
    reason: 'cannot write to the disk',
    changes: 'any',
    check: (world) => (world.changes.includes('promote') ? 'promoted without a lock file' : undefined),
  },
  {
    does: 'promote',
    when: 'placeholders cannot be made',
    given: { ...candidate, broken: { chown: '' } },
    code: FAILED,
    reason: 'cannot write to the disk',
    changes: 'any',
    check: (world) => (world.changes.includes('promote') ? 'promoted to any timeline' : undefined),
  },
  {
    does: 'promote',
    when: 'the CIB cannot be written',
    given: { ...candidate, broken: { cib: '' } },
    code: FAILED,
    reason: 'cannot write epoch 17 to the CIB',
    changes: 'any',
  },
  {
    does: 'promote',
    when: 'PostgreSQL refuses',
    given: { ...candidate, broken: { promote: 'ERROR:  synchronous_standby_names is not that of the file' } },
    code: FAILED,
    reason: 'not promoted: ERROR:  synchronous_standby_names',
    changes: 'any',
    check: (world) =>
      world.read('run/pgcm-Postgresql/promoting') ? undefined : 'forgot that it may still promote',
  },
  {
    does: 'promote',
    when: 'the postmaster has died: another one has to be chosen',
    given: { ...candidate, processes: undefined },
    code: FAILED,
    reason: 'PostgreSQL does not run here',
    changes: ['score@pg01=-INFINITY'],
  },
]

const called = (epoch: number) => ({ 'call@pg02': `${epoch}` })
const voted = (vote: string, node = 'pg01') => ['HUP', 'position', `vote@${node}=${vote} private`]

const notifications: Row[] = [
  {
    does: 'notify pre-demote pg01',
    when: 'it is to be the next primary: it calls while the old one is at work',
    given: { ...standby, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private'],
    order: ['sync promise.new', 'call@pg01=17 private'],
    files: { 'tmp/promise': '17', 'run/pgcm-Postgresql/call': '17' },
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  { does: 'notify pre-demote pg02', when: 'another one is to be primary', given: standby, code: OK },
  { does: 'notify pre-demote', when: 'nobody is to be primary', given: standby, code: OK },
  { does: 'notify pre-demote pg01', when: 'it is stopped', given: died, code: OK },
  {
    does: 'notify pre-demote pg01',
    when: 'the disk is full',
    given: { ...standby, broken: { disk: '' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/call': false },
  },
  {
    does: 'notify pre-promote pg01',
    when: 'it has not called yet',
    given: { ...alone, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private', 'HUP', 'position', 'vote@pg01=17:10:1000 private'],
    order: ['sync promise.new', 'call@pg01=17 private', 'position', 'vote@pg01=17:10:1000 private'],
    files: { 'tmp/promise': '17', 'tmp/replication.conf': conf('') },
  },
  {
    does: 'notify pre-promote pg01',
    when: 'it has called',
    given: { ...alone, promise: 17, run: { call: 17 }, attributes: { 'call@pg01': '17' } },
    code: OK,
    changes: voted('17:10:1000'),
  },
  { does: 'notify pre-promote pg01', when: 'it has voted', given: candidate, code: OK },
  {
    does: 'notify pre-promote pg01',
    when: 'a newer epoch was promised since its call',
    given: { ...alone, promise: 18, run: { call: 17 }, history: [10] },
    code: OK,
    changes: ['call@pg01=25 private', ...voted('25:10:1000')],
    files: { 'tmp/promise': '25' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'a standby is asked: it promises, cuts itself off, tells, and attaches to the candidate',
    given: { ...standby, attributes: called(18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
    order: ['sync promise.new', 'position', 'vote@pg01=18:10:1000 private'],
    files: { 'tmp/promise': '18', 'tmp/replication.conf': to(2), 'run/pgcm-Postgresql/voted': '18' },
  },
  {
    does: 'notify post-demote pg02',
    when: 'a standby is asked in a planned failover',
    given: { ...standby, attributes: called(18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has voted',
    given: { ...standby, promise: 18, run: { voted: 18 }, attributes: called(18) },
    code: OK,
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has promised more',
    given: { ...standby, promise: 19, attributes: called(18) },
    code: OK,
    files: { 'tmp/promise': '19' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'the candidate never calls',
    given: standby,
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'the candidate calls late',
    given: { ...standby, ...patient, twist: later('attrs/Postgresql-call@pg02', 18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'only a third one calls',
    given: { ...standby, attributes: { 'call@pg03': '19' } },
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it is stopped',
    given: { ...died, attributes: called(18) },
    code: OK,
  },
  { does: 'notify pre-promote', when: 'nobody is to be primary', given: standby, code: OK },
  {
    does: 'notify pre-promote pg02',
    when: 'it cannot tell what it holds: it has promised, and its vote does not count',
    given: { ...standby, position: '10|1000|f', attributes: called(18) },
    code: OK,
    changes: voted('18:0:0'),
    files: { 'tmp/promise': '18', 'tmp/replication.conf': conf(''), 'run/pgcm-Postgresql/voted': false },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it is a primary that everybody has left',
    given: { ...primary, position: '', attributes: called(18) },
    code: OK,
    changes: voted('18:0:0'),
  },
  {
    does: 'notify pre-promote pg02',
    when: 'its promise cannot be kept: the disk is full',
    given: { ...standby, attributes: called(18), broken: { disk: '' } },
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it was told to promote before',
    given: { ...standby, attributes: called(18), run: { promoting: 'postmaster' } },
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it follows the new primary already',
    given: {
      ...standby,
      promise: 18,
      promoted: { pg02: 18 },
      run: { state: 'standby streaming 10' },
      attributes: PG02_IS_PRIMARY,
    },
    code: OK,
    changes: ['HUP'],
    files: { 'run/pgcm-Postgresql/state': false, 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'the old primary has not said yet that it is none any more',
    given: {
      ...alone,
      promise: 18,
      promoted: { pg02: 18, pg03: 11 },
      attributes: { ...PG02_IS_PRIMARY, 'status@pg03': 'PRI' },
    },
    code: OK,
    changes: ['HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it did not vote',
    given: { ...alone, promoted: { pg02: 18 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it has promised more',
    given: { ...alone, promise: 19, promoted: { pg02: 18 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    files: { 'tmp/replication.conf': false },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it was demoted and is stopped',
    given: died,
    code: OK,
    changes: isStopped,
  },
  { does: 'notify post-promote pg01', when: 'it is the new primary', given: primary, code: OK },
  {
    does: 'notify post-start pg01',
    when: 'another one was started: the next monitor publishes again',
    given: { ...primary, run: { state: 'primary ' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/state': false },
  },
  {
    does: 'notify post-stop',
    when: 'another one was stopped: the next monitor publishes again',
    given: { ...primary, run: { state: 'primary ' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/state': false },
  },
  { does: 'notify pre-start', when: 'another one is to be started', given: primary, code: OK },
]

/** Epochs: of the node's own class (its place modulo 8), above all that this node knows. */
const epochs: Row[] = (
  [
    ['pg01', 9, {}],
    ['pg02', 2, {}],
    ['pg03', 3, {}],
    ['pg03', 11, { history: [3] }],
    ['pg02', 18, { history: [10] }],
    ['pg01', 17, { history: [16] }],
    ['pg01', 25, { history: [17] }],
    ['pg02', 18, { history: [10], placeholders: [11, 12] }],
    ['pg03', 35, { history: [10], promise: 27 }],
    ['pg03', 35, { history: [10], lock: 34 }],
    ['pg03', 43, { history: [10], attributes: { 'vote@pg01': '36:10:1000', 'vote@pg02': '13:0:0' } }],
  ] as [string, number, Given][]
).map(([node, epoch, given]) => ({
  does: `notify pre-demote ${node}`,
  when: `it knows ${JSON.stringify(given)}: epoch ${epoch}`,
  given: { ...running, ...given, node },
  code: OK,
  changes: [`call@${node}=${epoch} private`],
}))

export const ROWS: Row[] = [
  ...monitors,
  ...starts,
  ...wrong,
  ...stops,
  ...demotes,
  ...promotes,
  ...notifications,
  ...epochs,
]
