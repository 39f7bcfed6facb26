// deadline: 3000 s
/** Each daemon of the cluster is killed on each role, under load. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { cure, primary, primaryWithin, standby } from './cluster.ts'
import { bouncers, inside } from './machines.ts'
import { scenario, underLoad } from './scenario.ts'

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

for (const daemon of daemons) {
  for (const [role, find] of Object.entries(roles)) {
    scenario(`${daemon} is killed on ${role}: writes go on within 60 s`, 150, async () => {
      const machine = await find()
      await underLoad(
        async (load) => {
          await inside(machine, ['pkill', '-KILL', '-f', `(^|/)${daemon}( |$)`])
          assert.ok(await load.commitAfter(60_000, load.now() + 2_000))
          await primaryWithin(60_000)
        },
        { through: bouncers.filter((name) => name !== machine), transactionTimeoutMs: 10_000 },
      )
      await cure()
    })
  }
}

test.run()
