import { spawn } from 'node:child_process'
import { closeSync, fstatSync, openSync, rmSync, statSync } from 'node:fs'
import { Failed, Refused } from './errors.ts'

export interface Lock {
  /** Lets go. The file goes too. */
  release(): void
}

/** The exit code of flock(1) on an open file. It is waited for beside what else this process does: that may be to let go. */
const flock = (fd: number, words: string[]): Promise<number | null> =>
  new Promise((resolve, reject) => {
    const child = spawn('flock', [...words, '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
    child.once('error', reject).once('close', resolve)
  })

/**
 * Takes the lock `name`, kept by the kernel, so that it ends with this process whatever becomes of it.
 * `waitS` is how long to wait for somebody else (0: not at all); then `busy` is the refusal's message.
 */
export async function lock(name: string, busy: string, waitS = 0, dir = '/run'): Promise<Lock> {
  const file = `${dir}/pgcm-playground.${name}.lock`
  for (;;) {
    const fd = openSync(file, 'a', 0o600)
    // flock(1) locks the open file that it inherits, which is ours: the lock stays when flock has ended.
    const code = await flock(fd, waitS > 0 ? ['-w', String(waitS)] : ['-n']).catch((error) => {
      closeSync(fd)
      throw new Failed(`cannot lock ${file}: ${error.message}`)
    })
    if (code !== 0) {
      closeSync(fd)
      throw new Refused(busy, 'Wait until it is done.')
    }
    // The holder before us may have removed the file while we waited for it.
    if (statSync(file, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino) {
      return {
        release() {
          rmSync(file, { force: true })
          closeSync(fd)
        },
      }
    }
    closeSync(fd)
  }
}

/** The lock of one playground, for the verbs that change it as a whole. */
export const lockPlayground = (name: string): Promise<Lock> =>
  lock(name, `another pgcm-playground is at work on ${name}`)
