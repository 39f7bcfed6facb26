import { createInterface } from 'node:readline/promises'
import { Refused } from './errors.ts'

export interface Asking {
  /** --yes */
  yes: boolean
  isTTY?: boolean | undefined
}

/**
 * Asks on the terminal; the question goes to stderr, so that stdout stays clean.
 * @throws Refused unless the answer is yes; without a terminal, unless --yes is given
 */
export async function confirm(
  question: string,
  { yes, isTTY }: Asking,
  input: NodeJS.ReadableStream = process.stdin,
  output: NodeJS.WritableStream = process.stderr,
): Promise<void> {
  if (yes) return
  if (!isTTY)
    throw new Refused('nobody is there to be asked', 'Without a terminal, --yes says that you mean it.')
  const terminal = createInterface({ input, output })
  const closed = new AbortController()
  terminal.once('close', () => closed.abort()) // the question alone would wait on where the input ends
  try {
    const answer = await terminal.question(`${question} [y/N] `, { signal: closed.signal })
    if (!/^y(es)?$/i.test(answer.trim())) throw new Refused('not confirmed')
  } catch (error) {
    if (error instanceof Refused) throw error
    throw new Refused('not confirmed', undefined, { cause: error })
  } finally {
    terminal.close()
  }
}
