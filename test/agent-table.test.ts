import { mkdtempSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../lib/wait.ts'
import { brief } from './agent/log.ts'
import { sweep } from './agent/processes.ts'
import { ROWS } from './agent/rows.ts'
import type { Row } from './agent/states.ts'
import { World } from './agent/world.ts'

const home = mkdtempSync(join(tmpdir(), 'pgcm-agent-'))

/** Runs jobs, so many at once; each gives its promise at once. */
function lanes(count: number) {
  let free = count
  const waiting: (() => void)[] = []
  return async <T>(job: () => Promise<T>): Promise<T> => {
    if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve))
    else free--
    try {
      return await job()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else free++
    }
  }
}
const soon = lanes(cpus().length * 2)

/** Waits for the signals among the changes: a process logs them in its own time. */
async function sameChanges(world: World, expected: string[]): Promise<void> {
  // Two signals of a kind in a row may reach a process as one.
  const brought = (changes: string[]) => {
    const sorted = [...changes].sort()
    return sorted.filter((change, i) => change !== 'HUP' || sorted[i - 1] !== 'HUP').join('\n')
  }
  const wanted = brought(expected)
  const found = () => brought(world.changes)
  await until('all changes are there', { timeoutMs: 2000, everyMs: 10 }, () => found() === wanted).catch(
    () => {},
  )
  assert.is(found(), wanted)
}

/** Each of `steps` is a change, or the name of a file that was made durable. */
function inOrder(world: World, steps: string[]): void {
  const seen = world.log.flatMap((line) =>
    line.startsWith('sync ') ? [line.replace(/\S*\//g, '')] : brief(line),
  )
  const places = steps.map((step) => seen.indexOf(step))
  assert.ok(
    places.every((place, index) => place >= 0 && place > (places[index - 1] ?? -1)),
    `not in order: ${steps.join(', ')}\n${seen.join('\n')}`,
  )
}

async function judge(row: Row, shell: string): Promise<void> {
  const world = await World.make(row.given, home)
  try {
    const { code, reason, stderr, alive } = await world.run(row.does, shell)
    const told = `${stderr}\n${world.log.join('\n')}`
    assert.is(code, row.code, `exit code ${code}, not ${row.code}\n${told}`)
    if (row.reason === undefined) assert.is(reason, '', `a reason where none is needed: ${reason}`)
    else assert.ok(reason.includes(row.reason), `reason '${reason}', not '${row.reason}'\n${told}`)
    if (row.changes !== 'any') await sameChanges(world, row.changes ?? [])
    for (const [file, text] of Object.entries(row.files ?? {}))
      assert.is(world.has(file) && world.read(file), text, `${file}\n${told}`)
    inOrder(world, row.order ?? [])
    assert.is(row.check?.(world), undefined)
    const ends = row.does === 'stop' || (row.does === 'demote' && row.changes !== undefined)
    if (ends ? code === 0 : code === 7) assert.equal(alive, [], `said stopped, yet it lives\n${told}`)
  } finally {
    world.destroy()
  }
}

/** bash runs a few rows of each action, to see that nothing is dash's own. */
const few = (row: Row) =>
  ROWS.filter(({ does }) => does.split(' ')[0] === row.does.split(' ')[0]).indexOf(row) < 3
const table: [string, Row][] = [
  ...ROWS.map((row): [string, Row] => ['dash', row]),
  ...ROWS.filter(few).map((row): [string, Row] => ['bash', row]),
]
table.sort(([, a], [, b]) => Number(b.slow ?? false) - Number(a.slow ?? false))
for (const [shell, row] of table) {
  const verdict = soon(() => judge(row, shell))
  verdict.catch(() => {}) // its test reports it
  test(`${row.does}: ${row.when}${shell === 'bash' ? ' (bash)' : ''}`, () => verdict)
}

test.run()
process.on('exit', () => sweep(home))
