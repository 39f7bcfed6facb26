import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { bridgeOf } from '../../lib/playground-layout.ts'
import { sh } from '../../lib/sh.ts'
import { healthy } from './cluster.ts'
import { address, failing, inside, outside, playground, playgroundName, repository } from './machines.ts'
import { scenario } from './scenario.ts'

const command = `${repository}/bin/pgcm-playground`

/** Runs the playground and expects a refusal: exit 2, one line that names the matter, and a hint. */
async function refused(argv: string[], pattern: RegExp): Promise<void> {
  const error = await failing(sh(argv, { timeoutMs: 30_000, env: outside }))
  assert.is(error.code, 2, error.stderr)
  assert.match(error.stderr, pattern)
}

test('who is not root is refused', async () => {
  await refused(['setpriv', '--reuid=65534', '--clear-groups', process.execPath, command, 'up'], /root/)
})

test('an unknown verb and an unknown machine are refused', async () => {
  await refused([command, 'upp'], /upp/)
  await refused([command, 'kill', 'pg09', '--name', playgroundName], /pg09/)
})

test('a range that is in use is refused', async () => {
  const subnet = address('pg01').replace(/\d+$/, '0/24')
  await refused([command, 'up', '--name', 'refused', '--subnet', subnet], /use/)
})

scenario('status, ssh and up on a running playground work and change nothing', 120, async () => {
  const before = await healthy(10_000)
  assert.match((await playground('status')).stdout, /pg01/)
  assert.match((await playground('ssh', ['pg02', 'hostname'])).stdout, /^pg02$/m)
  await playground('up', ['--app'])
  assert.is(await healthy(10_000), before)
})

scenario('a machine that is partitioned loses sight of the others, and heal brings it back', 90, async () => {
  const before = await healthy(10_000)
  const other = before === 'pg03' ? 'pg02' : 'pg03'
  await playground('partition', [other])
  const reach = `timeout 2 bash -c 'exec 3<>/dev/tcp/${address(before)}/5432'`
  assert.not.equal((await inside(other, ['sh', '-c', reach], { okCodes: [0, 1, 124] })).code, 0)
  await playground('heal')
  await healthy(60_000)
})

test("the bridge has an address of its own: a machine's that dies would take the host's connections along", () => {
  const bridge = `/sys/class/net/${bridgeOf(playgroundName)}`
  const own = readFileSync(`${bridge}/address`, 'utf8')
  for (const port of readdirSync(`${bridge}/brif`))
    assert.is.not(readFileSync(`/sys/class/net/${port}/address`, 'utf8'), own)
  const SET = 3 // NET_ADDR_SET: the kernel does not choose it
  assert.is(Number(readFileSync(`${bridge}/addr_assign_type`, 'utf8')), SET)
})

scenario('a machine whose nspawn was killed dies with `kill`, and boots again', 120, async () => {
  const before = await healthy(10_000)
  const other = before === 'pg03' ? 'pg02' : 'pg03'
  const cable = `/sys/class/net/vb-${playgroundName}-${other}`
  await sh(['pkill', '-KILL', '-f', `^systemd-nspawn .*--machine=${playgroundName}-${other} `])
  assert.ok(existsSync(cable), 'its init lives on, or this test proves nothing')
  await playground('kill', [other])
  assert.not.ok(existsSync(cable), 'nothing of the machine is left')
  await playground('start', [other])
  await healthy(90_000)
})

test.run()
