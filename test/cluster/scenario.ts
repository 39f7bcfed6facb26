/** A cluster test: a sentence with a deadline, on a healthy cluster, under load where it says so. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import {
  type Load,
  type LoadOptions,
  prepareLedger,
  type Report,
  startLoad,
  summary,
  verify,
} from '../../bench/load.ts'
import { CommandFailed } from '../../lib/sh.ts'
import { until, within } from '../../lib/wait.ts'
import { cure, diagnosis, primary } from './cluster.ts'
import { address, bouncers, isOn, nodes, psql, secret } from './machines.ts'

const only = process.env.TEST_SCENARIO ?? ''

/** Registers a test that starts from a healthy cluster and must end within its deadline; a failure comes with a diagnosis. */
export function scenario(sentence: string, deadlineS: number, body: () => Promise<void>): void {
  if (!sentence.includes(only)) return
  test(sentence, async () => {
    await cure()
    try {
      await within(deadlineS * 1000, sentence, body())
    } catch (error) {
      if (error instanceof CommandFailed) console.log(`${error.stdout}${error.stderr}`)
      console.log(`\nFAILED: ${sentence}\n${(error as Error).stack}\n${await diagnosis().catch(String)}`)
      throw error
    }
  })
}

/** A line that the runner shows of a test that passed. */
export const note = (text: string) => console.log(`\n# ${text}`)

/** Calls `body` with a load running: 8 connections over all PgBouncers, 200 transactions a second. */
export async function underLoad(
  body: (load: Load) => Promise<void>,
  changes: Partial<LoadOptions> & { through?: string[] } = {},
): Promise<Report & { missing: number }> {
  const { through = bouncers, ...rest } = changes
  const options: LoadOptions = {
    paths: through.map((name) => ({ name, host: address(name), port: 6432 })),
    user: 'app',
    password: secret('app'),
    database: 'app',
    connections: 8,
    rate: 200,
    maxMs: 600_000,
    ...rest,
  }
  await prepareLedger(options)
  const load = startLoad(options)
  const writes = async () => assert.ok(await load.commitAfter(5_000), 'the load writes within 5 s')
  const failure = await writes()
    .then(() => body(load))
    .then(
      () => undefined,
      (error: Error) => error,
    )
  const report = await load.stop()
  console.log(`\n${summary(report)}`)
  assert.is(report.twoWriters, 0, 'two primaries have acknowledged commits at the same time')
  const missing = await missingRows(load)
  assert.equal(missing, {}, 'acknowledged rows are missing')
  if (failure) throw failure
  return { ...report, missing: Object.values(missing).flat().length }
}

/** The acknowledged rows that are not there, by node, on those that run, once the standbys have replayed what the primary has. */
async function missingRows(load: Load): Promise<Record<string, number[]>> {
  const found: Record<string, number[]> = {}
  const name = await until('there is a primary', { timeoutMs: 30_000 }, primary)
  const lsn = await psql(name, 'select pg_current_wal_flush_lsn()')
  let checked = 0
  for (const node of nodes.filter(isOn)) {
    if (node !== name) {
      const replayed = `select pg_is_in_recovery() and pg_last_wal_replay_lsn() >= '${lsn}'`
      const caughtUp = until(
        `${node} has replayed`,
        { timeoutMs: 5_000 },
        async () => (await psql(node, replayed).catch(() => 'f')) === 't',
      )
      // A node that is stopped has no say; whoever follows has everything.
      if (!(await caughtUp.catch(() => false))) continue
    }
    const ids = await psql(node, `select id from ledger where run = '${load.run}'`, 'app', 60_000)
    const verdict = verify(load.acks, ids.split('\n').filter(Boolean).map(Number))
    if (verdict.missing.length > 0) found[node] = verdict.missing
    checked++
  }
  assert.ok(checked > 0)
  return found
}
