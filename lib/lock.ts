/** `pgcm lock -- COMMAND`: runs a command while no failover can begin. */
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { run } from './cli.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { LockHeld } from './etcdlock.ts'
import { abortOnSignals } from './pipeline.ts'
import type { World } from './run.ts'
import { connectWorld } from './world.ts'

/** Killed this long after it was asked to end, because the lock is gone. */
const GRACE_MS = 5000

/**
 * Runs the command under the lock, with this terminal as its own.
 * @returns 0, or 3 where the command failed
 * @throws Refused where somebody else holds the lock, Failed where it was lost: then the command has been ended
 */
export async function underLock(
  world: Pick<World, 'lock'>,
  words: string[],
  waitMs: number,
  signal: AbortSignal,
): Promise<number> {
  if (!words[0]) throw new Refused('no command', 'pgcm lock -- COMMAND [WORD...]')
  const held = await world.lock(`pgcm lock -- ${words.join(' ')}`, waitMs, signal).catch((error) => {
    if (error instanceof LockHeld) throw new Refused(error.message, error.hint)
    throw error
  })
  try {
    const code = await runCommand(words, held.lost, signal)
    if (held.lost.aborted) throw new Failed(`${messageOf(held.lost.reason)}; the command was ended`)
    return code === 0 ? 0 : 3
  } finally {
    await held.release()
  }
}

function runCommand(
  [program = '', ...words]: string[],
  lost: AbortSignal,
  signal: AbortSignal,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: 'inherit' })
    const end = () => {
      child.kill('SIGTERM')
      setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref()
    }
    // A Ctrl-C reaches the command by itself; a signal sent to us alone is passed on.
    for (const each of [lost, signal]) {
      if (each.aborted) end()
      else each.addEventListener('abort', end, { once: true })
    }
    child.on('error', (cause) =>
      reject(new Refused(`cannot run ${program}: ${messageOf(cause)}`, undefined, { cause })),
    )
    child.on('exit', (code, name) => resolve(code ?? 128 + (name ? constants.signals[name] : 0)))
  })
}

export const main = () =>
  run('lock', async (config, { words }) => {
    const world = connectWorld(config)
    const { signal, dispose } = abortOnSignals()
    try {
      return await underLock(world, words, config.lockTimeout, signal)
    } finally {
      dispose()
      world.close()
    }
  })
