// deadline: 3000 s
/** Each daemon of the cluster is killed on each role, under load. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../../lib/wait.ts'
import { cure, primary, primaryWithin, standby } from './cluster.ts'
import { bouncers, inside } from './machines.ts'
import { note, scenario, underLoad } from './scenario.ts'

const daemons = [
  'corosync',
  'pacemakerd',
  'pacemaker-based',
  'pacemaker-fenced',
  'pacemaker-execd',
  'pacemaker-attrd',
  'pacemaker-schedulerd',
  'pacemaker-controld',
]
const roles = {
  'the primary': async () => (await primary()) as string,
  'the sync standby': () => standby('HS:sync'),
  'the potential standby': () => standby('HS:potential'),
}

/** The process of a daemon, by its number and its start; undefined while there is none. */
async function processOf(machine: string, daemon: string): Promise<string | undefined> {
  const ask = `pid=$(pgrep -o -f '(^|/)${daemon}( |$)') && cut -d ' ' -f 1,22 "/proc/$pid/stat"`
  const { stdout } = await inside(machine, ['bash', '-c', ask], { okCodes: [0, 1] })
  return stdout.trim() || undefined
}

for (const daemon of daemons) {
  for (const [role, find] of Object.entries(roles)) {
    scenario(`${daemon} is killed on ${role}: writes go on within 60 s`, 240, async () => {
      const machine = await find()
      const report = await underLoad(
        async (load) => {
          const killed = await processOf(machine, daemon)
          assert.ok(killed, `${daemon} runs`)
          await inside(machine, ['kill', '-KILL', killed.split(' ')[0] as string])
          // It is started again by its parent, or with the whole machine, which is fenced.
          await until(`${daemon} runs again`, { timeoutMs: 60_000, everyMs: 250 }, async () => {
            const found = await processOf(machine, daemon).catch(() => undefined)
            return found && found !== killed
          })
          assert.ok(await load.commitAfter(60_000))
          await primaryWithin(60_000)
        },
        { through: bouncers.filter((name) => name !== machine), transactionTimeoutMs: 10_000 },
      )
      note(`${daemon} on ${role}: longest gap ${Math.round(report.longestGapMs)} ms, 0 missing`)
      await cure()
    })
  }
}

test.run()
