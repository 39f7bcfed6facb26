import { createInterface } from 'node:readline/promises'
import { Refused } from './errors.ts'

export interface Asking {
  /** --yes */
  yes: boolean
  isTTY?: boolean | undefined
  /** Ends the waiting for an answer; its reason is thrown. */
  signal?: AbortSignal | undefined
}

/**
 * Asks on the terminal; the question goes to stderr, so that stdout stays clean.
 * @throws Refused unless the answer is yes; without a terminal, unless --yes is given
 */
export async function confirm(
  question: string,
  { yes, isTTY, signal }: Asking,
  input: NodeJS.ReadableStream = process.stdin,
  output: NodeJS.WritableStream = process.stderr,
): Promise<void> {
  if (yes) return
  if (!isTTY)
    throw new Refused('nobody is there to be asked', 'Without a terminal, --yes says that you mean it.')
  signal?.throwIfAborted()
  const terminal = createInterface({ input, output })
  const closed = new AbortController()
  terminal.once('close', () => closed.abort()) // the question alone would wait on where the input ends
  try {
    const ended = AbortSignal.any([closed.signal, ...(signal ? [signal] : [])])
    const answer = await terminal.question(`${question} [y/N] `, { signal: ended })
    if (!/^y(es)?$/i.test(answer.trim())) throw new Refused('not confirmed')
  } catch (error) {
    signal?.throwIfAborted()
    if (error instanceof Refused) throw error
    throw new Refused('not confirmed', undefined, { cause: error })
  } finally {
    terminal.close()
  }
}
