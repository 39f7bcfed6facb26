// deadline: 1200 s
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sh } from '../../lib/sh.ts'
import { etcd, healthy, primary, standby, turnOn } from './cluster.ts'
import { inside, newDisk, playground, repository, state } from './machines.ts'
import { scenario } from './scenario.ts'

/** Runs the playbook and returns its recap: host -> { ok, changed, failed, unreachable, ... }. */
async function playbook(...words: string[]) {
  const argv = ['ansible-playbook', '-i', `${state}/inventory/hosts.yml`, 'site.yml', ...words]
  const env = { ...process.env, ANSIBLE_CONFIG: `${repository}/ansible/ansible.cfg`, ANSIBLE_NOCOLOR: '1' }
  const command = ['env', '-C', `${repository}/ansible`, ...argv]
  const { stdout } = await sh(command, { timeoutMs: 280_000, env, okCodes: [0, 2, 4] })
  const recap = stdout.slice(stdout.indexOf('PLAY RECAP'))
  const hosts = [...recap.matchAll(/^(\w+) +: (.*)$/gm)].map(([, host, counts]) => ({
    host,
    changed: Number(/changed=(\d+)/.exec(counts as string)?.[1]),
    failed: Number(/failed=(\d+)/.exec(counts as string)?.[1]),
    unreachable: Number(/unreachable=(\d+)/.exec(counts as string)?.[1]),
  }))
  // The tasks that changed something, for the reader of a failure.
  let task = ''
  const changes: string[] = []
  for (const line of stdout.split('\n')) {
    task = /^TASK \[(.*)\]/.exec(line)?.[1] ?? task
    if (/^changed: /.test(line) || /^fatal: /.test(line)) changes.push(`${task}: ${line.slice(0, 200)}`)
  }
  return { hosts, changes }
}

for (const [title, ...words] of [
  ['a second run of the playbook changes nothing'],
  ['the playbook with --check changes nothing', '--check'],
]) {
  scenario(title as string, 300, async () => {
    const before = await primary()
    const { hosts, changes } = await playbook(...words)
    assert.equal(changes, [])
    assert.is(hosts.length, 4)
    for (const host of hosts)
      assert.is(host.changed + host.failed + host.unreachable, 0, JSON.stringify(host))
    assert.is(await healthy(10_000), before)
  })
}

scenario('what was not restarted when its files changed is restarted by the next run', 300, async () => {
  const started = async (machine: string, unit: string) => {
    const show = ['systemctl', 'show', '--value', '--property=ActiveEnterTimestampMonotonic', unit]
    return Number((await inside(machine, show)).stdout)
  }
  const due: [string, string, string][] = [
    ['pg02', 'etcd', '/etc/default/etcd'],
    ['app01', 'pgcm-proxy', '/etc/pgcm/tls/node.crt'],
  ]
  const before = await Promise.all(due.map(([machine, unit]) => started(machine, unit)))
  for (const [machine, , file] of due) await inside(machine, ['touch', file])
  const { hosts } = await playbook()
  assert.equal(
    hosts.filter(({ changed }) => changed > 0).map(({ host }) => host),
    ['app01', 'pg02'],
  )
  for (const [i, [machine, unit]] of due.entries())
    assert.ok((await started(machine, unit)) > (before[i] ?? 0), `${unit} on ${machine}`)
  await healthy(30_000)
})

scenario('a machine that was replaced by a new one comes back with the playbook alone', 600, async () => {
  const name = await primary()
  const lost = await standby('HS:sync')
  const members = async () =>
    (await etcd('member', 'list')).split('\n').filter((line) => line.includes('started'))
  const idOf = async (node: string) =>
    (await members()).find((line) => line.includes(` ${node},`))?.split(',')[0]
  const before = await idOf(lost)
  await playground('kill', [lost])
  await newDisk(lost)
  await turnOn(lost)
  const { hosts, changes } = await playbook()
  for (const host of hosts) assert.is(host.failed + host.unreachable, 0, changes.join('\n'))
  await healthy(60_000)
  assert.is(await primary(), name)
  assert.is((await members()).length, 3)
  assert.is.not(await idOf(lost), before)
  assert.equal((await playbook()).changes, [])
})

test.run()
