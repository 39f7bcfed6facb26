/** `pgcm lock -- COMMAND`: runs a command while no failover can begin. */
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { run } from './cli.ts'
import { Failed, messageOf, Refused } from './errors.ts'
import { LockHeld } from './etcdlock.ts'
import { abortOnSignals } from './pipeline.ts'
import type { World } from './run.ts'
import { connectWorld } from './world.ts'

/** Killed this long after it was asked to end, because the lock is gone. */
const GRACE_MS = 5000

/** Whether a terminal sends its signals to all of our process group, and so to the command as well. */
function inForeground(): boolean {
  const [, , group, , , foreground] = readFileSync('/proc/self/stat', 'utf8').replace(/.*\) /s, '').split(' ')
  return group === foreground
}

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
  graceMs = GRACE_MS,
): Promise<number> {
  if (!words[0]) throw new Refused('no command', 'pgcm lock -- COMMAND [WORD...]')
  const held = await world.lock(`pgcm lock -- ${words.join(' ')}`, waitMs, signal).catch((error) => {
    if (error instanceof LockHeld) throw new Refused(error.message, error.hint)
    throw error
  })
  try {
    signal.throwIfAborted()
    const code = await runCommand(words, held.lost, graceMs)
    if (held.lost.aborted) throw new Failed(`${messageOf(held.lost.reason)}; the command was ended`)
    return code === 0 ? 0 : 3
  } finally {
    await held.release()
  }
}

function runCommand([program = '', ...words]: string[], lost: AbortSignal, graceMs: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: 'inherit' })
    const end = () => {
      child.kill('SIGTERM')
      setTimeout(() => child.kill('SIGKILL'), graceMs).unref()
    }
    if (lost.aborted) end()
    else lost.addEventListener('abort', end, { once: true })
    // It may take its time to end: the lock is still held. What a terminal sends reaches it by itself.
    const passOn = (name: NodeJS.Signals) => child.kill(name)
    const signals = inForeground() ? ['SIGTERM'] : ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT']
    for (const name of signals) process.on(name, passOn)
    const quiet = () => {
      for (const name of signals) process.off(name, passOn)
    }
    child.on('error', (cause) => {
      quiet()
      reject(new Refused(`cannot run ${program}: ${messageOf(cause)}`, undefined, { cause }))
    })
    child.on('exit', (code, name) => {
      quiet()
      resolve(code ?? 128 + (name ? constants.signals[name] : 0))
    })
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
