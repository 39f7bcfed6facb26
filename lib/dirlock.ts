import { spawn } from 'node:child_process'
import { Refused } from './errors.ts'

/**
 * Holds a lock on a directory until the function that comes back is called or this process dies, however it dies: the
 * holder waits for the end of its input.
 * @throws Refused where another process holds it
 */
export async function alone(dir: string, who: string): Promise<() => void> {
  const words = ['--nonblock', '--conflict-exit-code', '9', dir, 'sh', '-c', 'echo held; exec cat >/dev/null']
  // A process group of its own: Ctrl-C on the terminal is not for it.
  const child = spawn('flock', words, { stdio: ['pipe', 'pipe', 'ignore'], detached: true })
  const code = await new Promise<number | null>((resolve, reject) => {
    child.stdout.once('data', () => resolve(0))
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (code === 9)
    throw new Refused(`another ${who} is at work on this node`, 'Wait for its end, or end that one first.')
  if (code !== 0) throw new Refused(`cannot lock ${dir}`, 'Has the resource agent ever run on this node?')
  return () => child.stdin.end()
}
