import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { until, within } from '../lib/wait.ts'

const launcher = (script: string) => fileURLToPath(new URL(`../bin/pgcm-${script}`, import.meta.url))

/** A port of 127.0.0.1 that nobody has at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** Values of a page of metrics by `name{labels}`. */
export function values(page: string): Record<string, number> {
  const lines = page.split('\n').filter((line) => line && !line.startsWith('#'))
  return Object.fromEntries(lines.map((line) => [line.replace(/ \S+$/, ''), Number(line.split(' ').at(-1))]))
}

export type Event = Record<string, unknown> & { event: string }

/** The real daemon, as a process of its own, with a directory for its state. After `body` SIGTERM ends it, in good order. */
export async function withDaemon(
  script: 'supervise' | 'proxy',
  flags: string[],
  env: NodeJS.ProcessEnv,
  body: (daemon: Daemon) => Promise<void>,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), `pgcm-${script}-`))
  const child = spawn(
    launcher(script),
    [`--state-dir=${dir}`, `--${script}-metrics-address=127.0.0.1:0`, ...flags],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, PGCM_CONFIG_FILE: '/dev/null', ...env } },
  )
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (chunk) => {
    said += chunk
  })
  const ended = new Promise<unknown[]>((resolve) => child.on('close', (...how) => resolve(how)))
  const events = () =>
    said
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as Event)
  const happened = async (event: string) => {
    const found = until(`it says ${event}`, { timeoutMs: 60_000, everyMs: 10 }, () =>
      events().find((each) => each.event === event),
    )
    const early = ended.then(([code, signal]) => {
      throw new Error(`exit code ${code ?? signal}: ${said}`)
    })
    return Promise.race([found, early])
  }
  try {
    const { port } = await happened('metrics.listening')
    const url = `http://127.0.0.1:${port}/metrics`
    const page = async () => (await fetch(url)).text()
    await body({
      port: Number(port),
      events,
      happened,
      page,
      /** Waits until the page says so. */
      shows: async (wanted) => {
        let seen: Record<string, number> = {}
        const [names, like] = [Object.keys(wanted), JSON.stringify(wanted)]
        const pick = () => JSON.stringify(Object.fromEntries(names.map((name) => [name, seen[name]])))
        await until(`it shows ${like}`, { timeoutMs: 30_000, everyMs: 50 }, async () => {
          seen = values(await page().catch(() => ''))
          return pick() === like
        }).catch((error) => {
          throw new Error(`${error.message}; it shows ${pick()}`)
        })
        return seen
      },
    })
    child.kill('SIGTERM')
    assert.equal(await within(30_000, 'its end', ended), [0, null], said)
  } finally {
    child.kill('SIGKILL')
    await ended
    rmSync(dir, { recursive: true, force: true })
  }
}

export interface Daemon {
  port: number
  /** All that it has logged. */
  events: () => Event[]
  happened: (event: string) => Promise<Event>
  page: () => Promise<string>
  shows: (wanted: Record<string, number>) => Promise<Record<string, number>>
}
