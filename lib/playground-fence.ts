import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { messageOf } from './errors.ts'
import { log } from './log.ts'
import type { Playground } from './playground-layout.ts'
import * as processes from './playground-process.ts'
import { now, since, sleep, until } from './wait.ts'

/** What the fence device can do with the machines behind it. */
export interface Sockets {
  names(): string[]
  power(name: string): 'on' | 'off' | 'unplugged'
  off(name: string): Promise<void>
  on(name: string): Promise<void>
}

const socketOf = (ground: Pick<Playground, 'dir'>): string => join(ground.dir, 'fence', 'fence.sock')

/**
 * How long a machine that is rebooted stays off. A container boots before corosync has missed it; then the news that it was fenced
 * reach the machine itself, which stops its Pacemaker for good.
 */
const DARK_MS = 4000

/**
 * The playground's fence device, spoken to over HTTP on a unix socket:
 * `POST /off/NODE`, `/on/NODE`, `/reboot/NODE`, `GET /status/NODE`, `GET /list`.
 * An answer of 200 to off or reboot means that nothing of the machine ran any more at that moment.
 */
export function fenceServer(machines: Sockets, darkMs = DARK_MS): Server {
  const act: Record<string, (name: string) => Promise<[number, string]>> = {
    'GET status': async (name) => [200, machines.power(name) === 'on' ? 'on' : 'off'],
    'POST off': async (name) => {
      await machines.off(name)
      return [200, 'off']
    },
    'POST on': async (name) => {
      // Pacemaker takes a failed "on" after an "off" for a machine that somebody has to look at; so it is.
      if (machines.power(name) === 'unplugged') return [409, 'unplugged']
      await machines.on(name)
      return [200, 'on']
    },
    'POST reboot': async (name) => {
      await machines.off(name)
      if (machines.power(name) === 'unplugged') return [200, 'off']
      // The asker wants to know that it is off; the boot may take its time.
      const boot = async () => {
        await sleep(darkMs)
        if (machines.power(name) === 'off') await machines.on(name)
      }
      boot().catch((error) => log.error('fence.boot-failed', { node: name, error }))
      return [200, 'off, booting']
    },
  }
  return createServer(async (request, response) => {
    const start = now()
    const [, verb = '', name = '', rest] = (request.url ?? '').split('/')
    let [code, body] = [404, `no ${request.method} ${request.url} here`]
    try {
      if (request.method === 'GET' && verb === 'list' && !name) {
        ;[code, body] = [200, machines.names().join('\n')]
      } else {
        const action = rest === undefined ? act[`${request.method} ${verb}`] : undefined
        if (action && !machines.names().includes(name)) body = `no machine ${name}`
        else if (action) [code, body] = await action(name)
      }
    } catch (error) {
      ;[code, body] = [500, messageOf(error)]
    }
    if (verb !== 'status' && verb !== 'list')
      log.info('fence', { verb, node: name, code, body, elapsed: since(start) })
    response.writeHead(code, { 'content-type': 'text/plain' }).end(`${body}\n`)
  })
}

/** Serves until the process ends. */
export async function serveFence(ground: Playground, machines: Sockets): Promise<never> {
  const socket = socketOf(ground)
  rmSync(socket, { force: true })
  const server = fenceServer(machines)
  await new Promise<void>((resolve, reject) => server.on('error', reject).listen(socket, resolve))
  chmodSync(socket, 0o600)
  log.info('fence.listening', { socket })
  return new Promise(() => {})
}

const pidFile = (ground: Playground) => join(ground.dir, 'fence.pid')

const accepts = (path: string) =>
  new Promise<boolean>((resolve) => {
    const socket = createConnection(path)
    const end = (answer: boolean) => {
      socket.destroy()
      resolve(answer)
    }
    socket.on('connect', () => end(true)).on('error', () => end(false))
  })

/** Starts the daemon behind the fence agents, which outlives this process. */
export async function startFence(ground: Playground): Promise<void> {
  if (processes.recall(pidFile(ground)) && (await accepts(socketOf(ground)))) return
  await stopFence(ground)
  mkdirSync(join(ground.dir, 'fence'), { recursive: true, mode: 0o700 })
  const logFile = openSync(join(ground.dir, 'fence.log'), 'a', 0o600)
  const script = fileURLToPath(new URL('../bin/pgcm-playground', import.meta.url))
  const child = spawn(process.execPath, [script, 'fence-daemon', '--name', ground.name], {
    ...{ cwd: '/', detached: true, stdio: ['ignore', logFile, logFile] },
  })
  child.unref()
  const daemon = child.pid ? processes.identify(child.pid) : undefined
  if (daemon) processes.remember(pidFile(ground), daemon)
  await until('the fence daemon listens', { timeoutMs: 20_000 }, () => accepts(socketOf(ground)))
}

export async function stopFence(ground: Playground): Promise<void> {
  const daemon = processes.recall(pidFile(ground))
  processes.signal(daemon, 'SIGTERM')
  if (!(await processes.gone([daemon], 2000))) processes.signal(daemon, 'SIGKILL')
  rmSync(pidFile(ground), { force: true })
  rmSync(socketOf(ground), { force: true })
}
