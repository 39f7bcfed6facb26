/**
 * The floor: what moving a primary costs with no manager at all. Two PostgreSQL of their own on two machines of the
 * playground, one synchronous standby of the other, and a PgBouncer of their own on a third; the same load client.
 * PAUSE, stop by a signal, pg_promote, RELOAD, RESUME, over connections that are open already, in 1 ms polls.
 */
import { appendFileSync, existsSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { until } from '../lib/wait.ts'
import { address, init, inside } from '../test/cluster/machines.ts'
import { type LoadOptions, prepareLedger, startLoad, verify } from './load.ts'

const PORT = 5497
const BOUNCER_PORT = 6497
const home = '/var/lib/pgcm-bench'
const machines = ['pg01', 'pg02'] as const
const bouncerMachine = 'app01'

const bin = async () => (await inside('pg01', 'ls -d /usr/lib/postgresql/*/bin')).stdout.trim()
const asPostgres = (command: string) =>
  `setpriv --reuid=postgres --regid=postgres --init-groups sh -c '${command}'`

function superuser(machine: string) {
  const client = new pg.Client({ host: address(machine), port: PORT, user: 'postgres', database: 'postgres' })
  client.on('error', () => {})
  return client
}

const ini = (to: string) => `[databases]
app = host=${address(to)} port=${PORT}
[pgbouncer]
listen_addr = *
listen_port = ${BOUNCER_PORT}
unix_socket_dir =
auth_type = trust
auth_file = ${home}/userlist.txt
admin_users = app
pool_mode = transaction
server_login_retry = 0.1
logfile = ${home}/pgbouncer.log
pidfile = ${home}/pgbouncer.pid
ignore_startup_parameters = extra_float_digits
`
const iniPath = () => `/proc/${init(bouncerMachine)}/root${home}/pgbouncer.ini`

const settings = `port = ${PORT}
unix_socket_directories = '${home}'
listen_addresses = '*'
wal_log_hints = on
wal_retrieve_retry_interval = 100ms
`
const hba = 'host all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust\n'

/** Makes the pair with pg01 as primary, and the PgBouncer in front of it. */
async function build(): Promise<void> {
  const b = await bin()
  for (const machine of [...machines, bouncerMachine]) {
    await inside(
      machine,
      `rm -rf ${home} && mkdir -p ${home} && chown postgres ${home} 2>/dev/null || mkdir -p ${home}`,
    )
  }
  await inside(
    'pg01',
    asPostgres(`${b}/initdb -D ${home}/data -U postgres -A trust --data-checksums >/dev/null`),
    {
      timeoutMs: 60_000,
    },
  )
  const data = `/proc/${init('pg01')}/root${home}/data`
  appendFileSync(`${data}/postgresql.conf`, settings)
  appendFileSync(`${data}/pg_hba.conf`, hba)
  await inside('pg01', asPostgres(startCommand(b)))
  const client = superuser('pg01')
  await client.connect()
  await client.query('create role app login superuser')
  await client.query('create database app owner app')
  await follow('pg02', 'pg01', b)
  await synchronous(client)
  await client.end()
  writeFileSync(iniPath(), ini('pg01'))
  writeFileSync(iniPath().replace('pgbouncer.ini', 'userlist.txt'), '"app" ""\n')
  await inside(
    bouncerMachine,
    `chown -R postgres ${home}; ${asPostgres(`/usr/sbin/pgbouncer -q -d ${home}/pgbouncer.ini`)}`,
  )
}

const startCommand = (b: string) => `${b}/pg_ctl -s -w -D ${home}/data -l ${home}/log start`

/** Commits wait for the standby from here on. */
async function synchronous(primary: pg.Client): Promise<void> {
  await primary.query("alter system set synchronous_standby_names = 'FIRST 1 (pg01, pg02)'")
  await primary.query('select pg_reload_conf()')
  await until('the standby is synchronous', { timeoutMs: 10_000 }, async () => {
    const { rows } = await primary.query("select from pg_stat_replication where sync_state = 'sync'")
    return rows.length === 1
  })
}

/** A fresh copy of the primary, streaming. */
async function follow(machine: string, primary: string, b: string): Promise<void> {
  const copy = `rm -rf ${home}/data && ${b}/pg_basebackup -R -c fast -D ${home}/data -d "host=${address(primary)} port=${PORT} user=postgres application_name=${machine}"`
  await inside(machine, asPostgres(copy), { timeoutMs: 60_000 })
  await inside(machine, asPostgres(startCommand(b)))
}

/** The host's pid of that postmaster. */
function postmaster(machine: string): number {
  const inner = readFileSync(`/proc/${init(machine)}/root${home}/data/postmaster.pid`, 'utf8').split(
    '\n',
  )[0] as string
  const space = namespace(Number(init(machine)))
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8')
      if (new RegExp(`^NSpid:.*\\t${inner}$`, 'm').test(status) && namespace(Number(pid)) === space)
        return Number(pid)
    } catch {} // it ended while we looked
  }
  throw new Error(`no postmaster ${inner} in ${machine}`)
}
const namespace = (pid: number) => readlinkSync(`/proc/${pid}/ns/pid`)

/** One hand-over under load; the longest gap of its clients in milliseconds. */
async function handOver(
  from: string,
  to: string,
): Promise<{ gapMs: number; errors: number; missing: number }> {
  const options: LoadOptions = {
    paths: [{ name: bouncerMachine, host: address(bouncerMachine), port: BOUNCER_PORT }],
    user: 'app',
    database: 'app',
    connections: 8,
    rate: 200,
    maxMs: 30_000,
  }
  await prepareLedger(options)
  const admin = new pg.Client({
    host: address(bouncerMachine),
    port: BOUNCER_PORT,
    user: 'app',
    database: 'pgbouncer',
  })
  const [old, fresh] = [superuser(from), superuser(to)]
  admin.on('error', () => {})
  await Promise.all([admin.connect(), old.connect(), fresh.connect()])
  const load = startLoad(options)
  await load.commitAfter(5_000)
  await load.commitAfter(5_000, load.now() + 700)
  // The new primary has no standby yet; the gap ends with its first write, as a manager's would with a second standby.
  await fresh.query("alter system set synchronous_standby_names = ''")
  await fresh.query('select pg_reload_conf()')
  const pid = postmaster(from)
  await old.query('checkpoint')
  await admin.query('PAUSE')
  process.kill(pid, 'SIGINT')
  while (existsSync(`/proc/${pid}`)) await sleep(1)
  await fresh.query('select pg_promote(false)')
  while ((await fresh.query('select pg_is_in_recovery() as standby')).rows[0].standby) await sleep(1)
  writeFileSync(iniPath(), ini(to))
  await admin.query('RELOAD')
  await admin.query('RESUME')
  await load.commitAfter(5_000, load.now() + 500)
  const report = await load.stop()
  const { rows } = await fresh.query('select 1')
  if (rows.length !== 1) throw new Error('the new primary does not answer')
  const app = new pg.Client({ host: address(to), port: PORT, user: 'app', database: 'app' })
  await app.connect()
  const ids = (await app.query('select id from ledger where run = $1', [load.run])).rows.map((row) =>
    Number(row.id),
  )
  await Promise.all([admin, fresh, app].map((client) => client.end()))
  return { gapMs: report.longestGapMs, errors: report.errors, missing: verify(load.acks, ids).missing.length }
}

async function tearDown(): Promise<void> {
  for (const machine of [...machines, bouncerMachine]) {
    const stop = `for f in ${home}/data/postmaster.pid ${home}/pgbouncer.pid; do [ ! -e $f ] || kill -QUIT $(head -n 1 $f); done; sleep 0.2; rm -rf ${home}`
    await inside(machine, stop, { okCodes: [0, 1] }).catch(() => {})
  }
}

/** `runs` hand-overs to and fro; their gaps in milliseconds. */
export async function floor(runs: number, tell: (text: string) => void): Promise<number[]> {
  const gaps: number[] = []
  try {
    await build()
    const b = await bin()
    for (let run = 0; run < runs; run++) {
      const [from, to] = (run % 2 === 0 ? ['pg01', 'pg02'] : ['pg02', 'pg01']) as [string, string]
      const { gapMs, errors, missing } = await handOver(from, to)
      tell(`floor ${run + 1}/${runs}: ${Math.round(gapMs)} ms, ${errors} errors, ${missing} missing`)
      gaps.push(gapMs)
      if (run === runs - 1) break
      await follow(from, to, b)
      const client = superuser(to)
      await client.connect()
      await synchronous(client)
      await client.end()
    }
  } finally {
    await tearDown()
  }
  return gaps
}
