/**
 * How a run is shown: a live list on a terminal, a line an event in a pipe, JSON for machines.
 * Views only listen; the pipeline does not know that they exist.
 */
import { asJson, asLine } from './eventtext.ts'
import { liveList } from './livelist.ts'
import type { Listener } from './pipeline.ts'

export type Kind = 'live' | 'plain' | 'json'

export interface View {
  on: Listener
  /** Text for people, before, between and after; JSON readers do not get it. */
  say(text: string): void
  /** One record for machines; people do not get it. */
  record(fields: Record<string, unknown>): void
  /** Resolves when everything is on the screen. */
  close(): Promise<void>
}

export interface Out {
  isTTY?: boolean
  write(text: string): unknown
}

/** Which view fits. A terminal that cannot move its cursor, or one that a CI system imitates, gets plain lines. */
export function kindOf(out: { isTTY?: boolean }, json: boolean, env: NodeJS.ProcessEnv): Kind {
  if (json) return 'json'
  return out.isTTY && env.TERM !== 'dumb' && !env.CI ? 'live' : 'plain'
}

export function viewOf(kind: Kind, out: Out, steps: { name: string }[]): View {
  const line = (text: string) => out.write(`${text}\n`)
  if (kind === 'json') {
    return {
      on: (event) => line(asJson(event)),
      say: () => {},
      record: (fields) => line(JSON.stringify(fields)),
      close: async () => {},
    }
  }
  if (kind === 'plain') {
    return {
      on: (event) => {
        const text = asLine(event)
        if (text !== undefined) line(text)
      },
      say: line,
      record: () => {},
      close: async () => {},
    }
  }
  const list = liveList(steps, line)
  return { on: list.on, say: line, record: () => {}, close: list.close }
}
