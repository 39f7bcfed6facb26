import { colour } from './colour.ts'
import { messageOf } from './errors.ts'
import type { Event } from './pipeline.ts'

/** One event as one line of JSON; errors as their message. */
export function asJson(event: Event): string {
  return JSON.stringify(event, (_, value) => (value instanceof Error ? messageOf(value) : value))
}

/** One event as one line for people; undefined where the start of a step says no more than its end. */
export function asLine(event: Event): string | undefined {
  const at = colour.grey(`${(event.at / 1000).toFixed(3).padStart(7)} s`)
  const row = (step: string, text: string) => `${at}  ${step.padEnd(10)} ${text}`
  switch (event.event) {
    case 'start':
      return undefined
    case 'undo':
      return row(event.step, 'undoing')
    case 'done':
    case 'undone':
      return row(event.step, `${colour.green('done')} in ${event.elapsed} ms`)
    case 'failed':
    case 'undo-failed':
      return row(event.step, `${colour.red('failed')} after ${event.elapsed} ms: ${messageOf(event.error)}`)
    case 'note':
      return row(event.step, event.text)
    case 'would':
      return wouldLines(event).join('\n')
    case 'aborted':
      return row('', `${colour.red(event.reason)}; a second signal changes nothing`)
  }
}

/** What a dry run says of a step. */
export function wouldLines(event: Extract<Event, { event: 'would' }>): string[] {
  return [
    `${event.step.padEnd(10)} would run:`,
    ...event.commands.map((command) => `    ${command}`),
    ...(event.undo ? [`  and, whatever happens, ${event.undo}:`] : []),
    ...(event.undoCommands ?? []).map((command) => `    ${command}`),
  ]
}
