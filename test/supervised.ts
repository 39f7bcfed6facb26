/** pgcm-supervise as it is, with a Pacemaker that says what the test wants. */
import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { until } from '../lib/wait.ts'

const fixture = (name: string) =>
  readFileSync(new URL(`./fixtures/trixie-healthy.${name}.xml`, import.meta.url), 'utf8')

/** Addresses as node names: they are looked up without any DNS. */
export const address = (node: number) => `10.77.0.${node}`

/** The healthy cluster, with another primary and epoch. */
function pretend(text: string, primary: number, epoch: number): string {
  const swapped = text
    .replaceAll('pg03', 'the primary')
    .replaceAll(`pg0${primary}`, 'pg03')
    .replaceAll('the primary', `pg0${primary}`)
  return (
    swapped
      // 171 is the primary's there, 170 and 169 the others'.
      .replace(
        /("Postgresql-epoch" value=")(\d+)/g,
        (_, head, was) => `${head}${Math.max(0, epoch + Number(was) - 171)}`,
      )
      .replace(/pg0(\d)/g, (_, node) => address(Number(node)))
  )
}

export interface Supervise {
  name: string
  pid: number
  /** What its Pacemaker says from now on; and its alert agent, unless not `told`. */
  sees(primary: number, epoch: number, told?: boolean): void
  /** Its clock goes on by 20 s, and its timers know nothing of that; true once it has. */
  ages(): Promise<boolean>
  /** How often it has read the CIB. */
  looks(): number
  log(): { level: string; event: string; error?: string }[]
  stop(): Promise<void>
}

/** Starts that of one node, with more settings where wanted; to be stopped by the caller. */
export function supervise(
  dir: string,
  node: 1 | 2 | 3,
  endpoints: string,
  sees: [number, number],
  more: Record<string, string> = {},
): Supervise {
  const name = `node${node}`
  const home = join(dir, name)
  const bin = join(home, 'bin')
  mkdirSync(bin, { recursive: true })
  const set = (primary: number, epoch: number, told = true) => {
    // The CIB last: it is what the daemon looks at for a change.
    for (const kind of ['crm_mon', 'cib']) {
      writeFileSync(join(home, `${kind}.new`), pretend(fixture(kind), primary, epoch))
      renameSync(join(home, `${kind}.new`), join(home, kind))
    }
    if (told) writeFileSync(join(home, 'poke'), '\n')
  }
  set(...sees, false)
  for (const [command, kind] of [
    ['cibadmin', 'cib'],
    ['crm_mon', 'crm_mon'],
  ] as const) {
    writeFileSync(
      join(bin, command),
      `#!/bin/sh\necho >>'${join(home, `${kind}.asked`)}'\nexec cat '${join(home, kind)}'\n`,
    )
    chmodSync(join(bin, command), 0o755)
  }
  const preload = join(home, 'preload.cjs')
  const override = `
    require('os').hostname = () => '${address(node)}'; require('module').syncBuiltinESMExports()
    const now = performance.now.bind(performance)
    process.on('SIGUSR2', () => { performance.now = () => now() + 20_000; console.error('{"event":"aged"}') })`
  writeFileSync(preload, override)
  const settings = {
    NODE_OPTIONS: `--require ${preload} ${process.env.NODE_OPTIONS ?? ''}`,
    PGCM_CONFIG_FILE: '/dev/null',
    PGCM_ETCD_ENDPOINTS: endpoints,
    PGCM_INSECURE: 'true',
    PGCM_SUPERVISE_METRICS_ADDRESS: '127.0.0.1:0',
    PGCM_LOG_LEVEL: 'debug',
    PGCM_BIND_ADDRESS: '127.0.0.1:0',
    PGCM_STATE_DIR: home,
    PGCM_PGBOUNCER_SOCKET_DIR: home,
    PGCM_POSTGRES_SOCKET_DIR: home,
    ...more,
  }
  const env = { ...process.env, ...settings, PATH: `${bin}:${process.env.PATH}`, RUNTIME_DIRECTORY: home }
  const program = fileURLToPath(new URL('../bin/pgcm-supervise', import.meta.url))
  const child = spawn(process.execPath, [program], { env, stdio: ['ignore', 'ignore', 'pipe'] })
  let text = ''
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    text += chunk
  })
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const log = () =>
    text
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line))
  return {
    name,
    pid: child.pid ?? 0,
    sees: set,
    ages() {
      child.kill('SIGUSR2')
      return until('its clock has gone on', { timeoutMs: 20_000 }, () =>
        log().some(({ event }) => event === 'aged'),
      )
    },
    looks: () => readFileSync(join(home, 'cib.asked'), 'utf8').length,
    log,
    async stop() {
      child.kill('SIGKILL')
      await exited
    },
  }
}
