import { inspect } from 'node:util'
import { errorColour as chalk } from './colour.ts'
import { messageOf } from './errors.ts'
import { now, since } from './wait.ts'

const levels = ['debug', 'info', 'warn', 'error'] as const
type Level = (typeof levels)[number]
export type Fields = Record<string, unknown>

interface Sink {
  isTTY?: boolean
  write(text: string): unknown
}

const colour = { debug: chalk.grey, info: chalk.cyan, warn: chalk.yellow, error: chalk.red }

function plain(value: unknown): unknown {
  if (value instanceof Error) return messageOf(value)
  if (typeof value === 'bigint') return value.toString()
  return value
}

/** One line for the event: JSON for machines, `time event key=value` for a person. */
export function line(level: Level, event: string, fields: Fields, at: Date, json: boolean): string {
  const entries = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => [key, plain(value)] as const)
  if (json) return JSON.stringify({ ts: at.toISOString(), level, event, ...Object.fromEntries(entries) })
  const words = entries.map(([key, value]) => {
    const text = typeof value === 'string' ? value : inspect(value, { breakLength: Infinity, depth: 4 })
    return `${chalk.grey(`${key}=`)}${/\s/.test(text) ? JSON.stringify(text) : text}`
  })
  return [chalk.grey(at.toISOString().slice(11, 23)), colour[level](event), ...words].join(' ')
}

/** Logs to `sink` (stderr, so that stdout stays free for results). `quietMs`: after that a disturbance is over. */
export function logger(
  sink: Sink = process.stderr,
  state: { level: Level } = { level: 'info' },
  quietMs = 60_000,
) {
  const quiet = new Map<string, NodeJS.Timeout>()
  const open = new Map<string, { since: number; said: number; times: number }>()
  const counts = new Map<string, { level: Level; event: string; times: number; lasts: boolean }>()
  const count = (level: Level, event: string, lasts = false) => {
    const key = `${level} ${event}`
    const times = (counts.get(key)?.times ?? 0) + 1
    counts.set(key, { level, event, times, lasts })
  }
  const write = (level: Level, event: string, fields: Fields = {}) => {
    if (levels.indexOf(level) < levels.indexOf(state.level)) return
    sink.write(`${line(level, event, fields, new Date(), !sink.isTTY)}\n`)
  }
  const all = {
    setLevel: (level: Level) => {
      state.level = level
    },
    debug: (event: string, fields?: Fields) => write('debug', event, fields),
    info: (event: string, fields?: Fields) => write('info', event, fields),
    warn: (event: string, fields?: Fields) => {
      count('warn', event)
      write('warn', event, fields)
    },
    error: (event: string, fields?: Fields) => {
      count('error', event)
      write('error', event, fields)
    },

    /** Something that goes wrong again and again is said when it begins and then every five minutes, with a count. */
    trouble(event: string, fields?: Fields): void {
      count('error', event, true)
      const seen = open.get(event)
      if (!seen) open.set(event, { since: now(), said: now(), times: 1 })
      else {
        seen.times += 1
        if (now() - seen.said < 300_000) {
          write('debug', event, fields)
          return
        }
        seen.said = now()
      }
      write('error', event, { ...fields, times: seen?.times })
    },

    /** A trouble of somebody else's making, whose end nobody sees: it is over when it has not come up for a while. */
    disturbance(event: string, fields?: Fields): void {
      all.trouble(event, fields)
      clearTimeout(quiet.get(event))
      const over = setTimeout(() => all.cleared(event), quietMs)
      quiet.set(event, over.unref())
    },

    /** The end of such a trouble is said once; nothing is said when there was none. */
    cleared(event: string, fields?: Fields): void {
      const seen = open.get(event)
      if (!seen) return
      open.delete(event)
      write('info', `${event}.cleared`, { ...fields, times: seen.times, elapsed: since(seen.since) })
    },

    /** How often each warning and error came up, written or not; `lasting` says of a trouble whether it is still there. */
    counts: () =>
      [...counts.values()].map(({ lasts, ...counted }) => ({
        ...counted,
        lasting: lasts ? open.has(counted.event) : null,
      })),
  }
  return all
}

export type Logger = ReturnType<typeof logger>
export const log = logger()
