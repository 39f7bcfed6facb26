import { Listr, type ListrTask } from 'listr2'
import { messageOf } from './errors.ts'
import { wouldLines } from './eventtext.ts'
import type { Event, Listener } from './pipeline.ts'

type Wrapper = Parameters<NonNullable<ListrTask['task']>>[1]
/** One row of the list: it lives from its first event to its last. */
interface Row {
  name: string
  settle: (how: { ok?: string; error?: string; skip?: true }) => void
  task?: Wrapper
  startedAt?: number
  note?: string
}

/**
 * A live list of steps, and below it the undos as they come: their order is the pipeline's affair.
 * listr2 draws it and decides nothing: each of its tasks only waits for the events of its step.
 */
export function liveList(steps: { name: string }[], line: (text: string) => void) {
  let rows: Row[] = []
  let running: Promise<unknown> = Promise.resolve()
  let ticker: NodeJS.Timeout | undefined

  const begin = (names: string[]) => {
    const before = running
    const tasks: ListrTask[] = []
    rows = names.map((name) => {
      const row: Row = { name, settle: () => {} }
      const over = new Promise<Parameters<Row['settle']>[0]>((resolve) => {
        row.settle = resolve
      })
      tasks.push({
        title: name,
        task: async (_, task) => {
          row.task = task
          const { ok, error, skip } = await over
          // The run ended before this step: listr2 shows its row as such.
          if (skip) return task.skip(`${name}: not reached`)
          if (error) throw new Error(`${name}: ${error}`)
          task.title = `${name} ${ok}`
        },
      })
      return row
    })
    const list = new Listr(tasks, {
      concurrent: false,
      exitOnError: false,
      registerSignalListeners: false, // its handler would end the process with nothing undone
      rendererOptions: { collapseErrors: false, collapseSkips: true, showErrorMessage: true },
    })
    running = before.then(() => list.run()).catch(() => {})
  }
  const endSteps = () => {
    for (const row of rows) row.settle({ skip: true })
  }
  const rowOf = (name: string) => rows.find((row) => row.name === name)
  const paint = (row: Row, at: number) => {
    if (!row.task || row.startedAt === undefined) return
    row.task.output = `${row.note ?? ''} ${((at - row.startedAt) / 1000).toFixed(1)} s`.trim()
  }

  let clock = { at: 0, seen: Date.now() }
  const on: Listener = (event: Event) => {
    clock = { at: event.at, seen: Date.now() }
    if (event.event === 'would') {
      for (const text of wouldLines(event)) line(text)
      return
    }
    if (event.event === 'aborted') return
    if (rows.length === 0) begin(steps.map(({ name }) => name))
    ticker ??= setInterval(() => {
      for (const row of rows) paint(row, clock.at + Date.now() - clock.seen)
    }, 100)
    if (event.event === 'undo') {
      endSteps()
      begin([event.step])
    }
    const row = rowOf(event.step)
    if (!row) return
    if (event.event === 'start' || event.event === 'undo') {
      row.startedAt = event.at
    } else if (event.event === 'note') {
      row.note = event.text
      paint(row, event.at)
    } else if (event.event === 'done' || event.event === 'undone') {
      row.settle({ ok: `(${event.elapsed} ms)${row.note ? ` ${row.note}` : ''}` })
    } else if (event.event === 'failed' || event.event === 'undo-failed') {
      row.settle({ error: messageOf(event.error) })
    }
    if ('elapsed' in event) row.startedAt = undefined
  }
  const close = async () => {
    clearInterval(ticker)
    endSteps()
    await running
  }
  return { on, close }
}
