import { spawn } from 'node:child_process'
import { createWriteStream, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { errorColour } from './colour.ts'
import { Failed } from './errors.ts'
import { now } from './wait.ts'

const start = now()

/** One line of progress on stderr, with the seconds since the start. */
export function say(text: string): void {
  const seconds = Math.round((now() - start) / 1000)
  process.stderr.write(`${errorColour.grey(`${String(seconds).padStart(4)} s`)}  ${text}\n`)
}

export interface Follow {
  /** What the words do, for the message when they fail. */
  what: string
  logFile: string
  timeoutMs: number
  signal?: AbortSignal
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** Called with each line; what it gives is shown as progress. */
  show?: (line: string) => string | undefined
}

/** Runs a long command, its output in a log file and the telling lines on the screen. Throws `Failed` with its last line. */
export function follow(argv: string[], options: Follow): Promise<void> {
  const { what, logFile, timeoutMs, signal, cwd, env, show } = options
  return new Promise((resolve, reject) => {
    mkdirSync(dirname(logFile), { recursive: true })
    const log = createWriteStream(logFile, { flags: 'w', mode: 0o600 })
    log.on('error', () => {}) // without a log the command goes on; how it ends is told all the same
    const child = spawn(argv[0] as string, argv.slice(1), {
      ...{ cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] },
    })
    let last = ''
    let why = ''
    const kill = (name: NodeJS.Signals) => {
      try {
        if (child.pid) process.kill(-child.pid, name) // its own process group
      } catch {} // gone already
    }
    const stop = (reason: string) => {
      why ||= reason
      kill('SIGTERM') // first the chance to unmount what it mounted, then the end
      const end = setTimeout(() => kill('SIGKILL'), 5000).unref()
      child.once('close', () => clearTimeout(end))
    }
    const timer = setTimeout(() => stop(`took longer than ${timeoutMs / 1000} s`), timeoutMs)
    const onAbort = () => stop('was stopped')
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort, { once: true })
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        log.write(`${line}\n`)
        if (line.trim()) last = line.trim()
        const shown = show?.(line)
        if (shown) say(shown)
      })
    }
    child.on('error', (cause) => reject(new Failed(`${what}: ${cause.message}`)))
    child.on('close', (code) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      log.end()
      if (code === 0 && !why) resolve()
      else
        reject(
          new Failed(
            `${what} ${why || `failed (exit ${code}): ${last}`}`,
            `The whole output is in ${logFile}.`,
          ),
        )
    })
  })
}

/** Does `body` for all at once, waits for every one, and then throws what went wrong first. */
export async function each<T>(items: T[], body: (item: T) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled(items.map(body))
  for (const result of results) if (result.status === 'rejected') throw result.reason
}
