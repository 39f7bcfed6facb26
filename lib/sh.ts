import { type ChildProcess, spawn } from 'node:child_process'
import { $ } from 'zx/core'
import { Expected } from './errors.ts'
import { now, since } from './wait.ts'

export interface ShOptions {
  /** The command and everything it started is killed after this long. Default 30 s. */
  timeoutMs?: number
  signal?: AbortSignal
  input?: string
  env?: NodeJS.ProcessEnv
  /** Exit codes that are not an error. Default [0]. */
  okCodes?: number[]
  /** More output than this on either stream kills the command. Default 16 MiB. */
  maxBytes?: number
  /** What it started and left behind ends with it; otherwise its end is waited for. */
  endsAsOne?: boolean
}

export interface ShResult {
  stdout: string
  stderr: string
  code: number
  elapsedMs: number
}

/** A command as one may paste it into a shell. */
export const shown = (argv: string[]): string =>
  argv.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ')

/** What a program of PostgreSQL's complains of: hints and what it cleaned up follow it. Empty where it does not. */
export const complaint = (stderr: string): string => {
  const lines = stderr.trim().split('\n')
  return (lines.find((each) => /\b(error|fatal|PANIC|FATAL):/.test(each)) ?? '').replace(
    /^.*?\b(error|fatal|PANIC|FATAL): */,
    '',
  )
}

/** A command that failed. `code` is null when it was killed. */
export class CommandFailed extends Expected {
  readonly exitCode = 1
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  /** Such as `exit 1`, `timed out` or `died of SIGKILL`. */
  readonly why: string
  readonly elapsedMs: number

  constructor(
    argv: string[],
    why: string,
    result: { code: number | null; stdout: string; stderr: string; elapsedMs: number },
  ) {
    const last = result.stderr.trim().split('\n').at(-1)
    super(`${argv.join(' ')}: ${why} after ${result.elapsedMs} ms${last ? `: ${last}` : ''}`)
    this.code = result.code
    this.stdout = result.stdout
    this.stderr = result.stderr
    this.why = why
    this.elapsedMs = result.elapsedMs
  }
}

/**
 * Runs a command given as words; no shell sees them. stdin is closed unless `input` is given.
 * Throws `CommandFailed`, which names the command, its exit code, its time and its last line of stderr.
 */
export async function sh(argv: string[], options: ShOptions = {}): Promise<ShResult> {
  const { timeoutMs = 30_000, signal, input, env, okCodes = [0], maxBytes = 16 * 2 ** 20 } = options
  const start = now()
  let child: ChildProcess | undefined
  let killed: string | undefined
  let broken: string | undefined
  const killGroup = () => {
    try {
      // The command leads its own process group, so this reaches what it started as well. zx's own kill needs `ps`.
      if (child?.pid) process.kill(-child.pid, 'SIGKILL')
    } catch {} // gone already
  }
  const kill = (why: string) => {
    killed ??= why
    killGroup()
  }
  const onAbort = () => kill('was stopped')
  if (signal?.aborted)
    throw new CommandFailed(argv, 'was stopped', { code: null, stdout: '', stderr: '', elapsedMs: 0 })

  const process_ = $({
    quiet: true,
    nothrow: true,
    detached: true,
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    ...(env && { env }),
    // zx would start a shell with one line of text; the words are started as they are.
    spawn: ((_shell: string, _line: string[], spawnOptions: object) => {
      child = spawn(argv[0] ?? '', argv.slice(1), { ...spawnOptions, shell: false })
      child.once('error', (error: NodeJS.ErrnoException) => {
        broken = error.code === 'ENOENT' ? 'not found' : error.message
      })
      if (options.endsAsOne) child.once('exit', killGroup)
      for (const stream of [child.stdout, child.stderr]) {
        let bytes = 0
        stream?.on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > maxBytes) kill(`gave more than ${maxBytes} bytes`)
        })
      }
      if (killed) kill(killed)
      return child
    }) as typeof spawn,
  })`${argv}`
  const timer = setTimeout(() => kill('timed out'), timeoutMs)
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    if (input !== undefined) {
      process_.stdin.on('error', () => {}) // a command that does not read its input is judged by its exit code
      process_.stdin.end(input)
    }
    const output = await process_
    const result = {
      stdout: output.stdout,
      stderr: output.stderr,
      code: output.exitCode,
      elapsedMs: since(start),
    }
    if (broken) {
      if (okCodes.includes(127)) return { ...result, code: 127 } // what a shell would say
      throw new CommandFailed(argv, `could not be started: ${broken}`, { ...result, code: 127 })
    }
    if (killed) throw new CommandFailed(argv, killed, { ...result, code: null })
    if (result.code === null) throw new CommandFailed(argv, `died of ${output.signal}`, result)
    if (!okCodes.includes(result.code)) throw new CommandFailed(argv, `exit ${result.code}`, result)
    return { ...result, code: result.code }
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}
