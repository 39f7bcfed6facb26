import { AddressTaken } from './errors.ts'
import { log } from './log.ts'
import { sleep } from './wait.ts'

const RETRY_MS = 5_000

/**
 * Opens what others reach us by. Where the address cannot be had that is said once, and tried again until `signal`
 * aborts; nobody waits for that. Comes back after the first try, with what is going to be open, or undefined where
 * the end came first.
 */
export async function insist<T>(
  event: string,
  open: () => Promise<T>,
  signal: AbortSignal,
): Promise<{ opened: Promise<T | undefined> }> {
  const attempt = async (): Promise<T | undefined> => {
    try {
      const opened = await open()
      log.cleared(event)
      return opened
    } catch (error) {
      if (!(error instanceof AddressTaken)) throw error
      log.trouble(event, { error })
    }
  }
  const again = async (): Promise<T | undefined> => {
    let opened: T | undefined
    while (!opened && !signal.aborted) {
      await sleep(RETRY_MS, signal)
      if (!signal.aborted) opened = await attempt()
    }
    return opened
  }
  const first = await attempt()
  return { opened: first ? Promise.resolve(first) : again() }
}
