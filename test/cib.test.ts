/** The CIB that our role makes, asked of Pacemaker's own scheduler: who is promoted after which loss. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type Loss, loseCommand, settleCommand, standing } from '../lib/losses.ts'
import { sh } from '../lib/sh.ts'
import { simulate } from '../lib/simulate.ts'
import { fixture, needTools } from './cibs.ts'

const ansible = fileURLToPath(new URL('../ansible', import.meta.url))
const role = join(ansible, 'roles/pacemaker')
const names = { resource: 'Postgresql', clone: 'msPostgresql' }
const home = mkdtempSync(join(tmpdir(), 'pgcm-our-cib-'))
process.on('exit', () => rmSync(home, { recursive: true, force: true }))

/** The role's template, rendered by Ansible with the role's defaults and the inventory that comes as an example. */
async function configuration(): Promise<string> {
  const play = [
    {
      hosts: 'pg01',
      connection: 'local',
      gather_facts: false,
      vars: { postgresql_version: 17 },
      vars_files: [join(role, 'defaults/main.yml')],
      tasks: [
        {
          'ansible.builtin.template': {
            src: join(role, 'templates/cib.xml.j2'),
            dest: join(home, 'wanted.xml'),
          },
        },
      ],
    },
  ]
  writeFileSync(join(home, 'play.json'), JSON.stringify(play))
  const inventory = join(ansible, 'inventory/example/hosts.yml')
  await sh(['ansible-playbook', '-i', inventory, join(home, 'play.json')], {
    timeoutMs: 60_000,
    env: {
      ...process.env,
      ANSIBLE_LOCAL_TEMP: join(home, 'local'),
      ANSIBLE_REMOTE_TEMP: join(home, 'remote'),
    },
  })
  return readFileSync(join(home, 'wanted.xml'), 'utf8')
}

/** An empty cluster into which merge_cib has put our configuration, with the status of a real one: pg03 is primary, pg01 sync. */
async function ourCib(): Promise<string> {
  await needTools()
  const real = fixture('trixie-healthy')
  const status = real.slice(real.indexOf('<status>'))
  const nodes = real.slice(real.indexOf('<nodes>'), real.indexOf('</nodes>'))
  const head = real.slice(0, real.indexOf('<configuration>'))
  const file = join(home, 'cib.xml')
  writeFileSync(
    file,
    `${head}<configuration><crm_config/>${nodes}</nodes><resources/><constraints/></configuration>${status}`,
  )
  const env = { ...process.env, CIB_file: file }
  const input = await configuration()
  const { stdout: patch } = await sh([join(role, 'files/merge_cib')], { input, env })
  await sh(['cibadmin', '--patch', '--xml-pipe'], { input: patch, env })
  assert.is(
    (await sh([join(role, 'files/merge_cib')], { input, env })).stdout,
    '',
    'a second merge changes something',
  )
  return file
}

const machine = (node: string): Loss => ({ node })
const instance = (node: string, interval: number, forGood: boolean): Loss => ({
  ...{ node, resource: 'Postgresql', operation: `Postgresql_monitor_${interval}`, forGood },
})

/** What ends how: who is primary, and where else PostgreSQL runs. */
const losses: [string, Loss[], primary: string | null, standbys: string][] = [
  ['nothing', [], 'pg03', 'pg01 pg02'],
  ["the primary's machine", [machine('pg03')], 'pg01', 'pg02'],
  ["the synchronous standby's machine", [machine('pg01')], 'pg03', 'pg02'],
  ["the potential standby's machine", [machine('pg02')], 'pg03', 'pg01'],
  ["the primary's instance, that may not be started again", [instance('pg03', 1000, true)], 'pg01', 'pg02'],
  ["the primary's instance, that may", [instance('pg03', 1000, false)], 'pg03', 'pg01 pg02'],
  ["a standby's instance", [instance('pg01', 2000, false)], 'pg03', 'pg01 pg02'],
  [
    "the primary's machine, and the synchronous standby's instance for good",
    [machine('pg03'), instance('pg01', 2000, true)],
    ...(['pg02', ''] as const),
  ],
]

let cib: Promise<string>
for (const [what, lost, primary, standbys] of losses) {
  test(`our CIB after the loss of ${what}: ${primary} is primary`, async () => {
    cib ??= ourCib()
    const file = join(home, 'lost.xml')
    if (lost.length === 0) cpSync(await cib, file)
    else await sh(loseCommand(await cib, lost, file))
    const { stdout } = await sh(settleCommand(file))
    const end = standing(stdout, 'revised_cluster_status', names)
    const others = end.running.filter(({ ours, promoted }) => ours && !promoted).map(({ node }) => node)
    assert.equal([end.primary, others.sort().join(' ')], [primary, standbys])
  })
}

test('our CIB has no trap: every single and double loss that leaves a quorum ends with a primary', async () => {
  cib ??= ourCib()
  const { findings, simulated } = await simulate(
    readFileSync(await cib, 'utf8'),
    names,
    AbortSignal.timeout(240_000),
  )
  assert.equal(findings, [])
  assert.ok(simulated > 30, `${simulated} losses`)
})

test.run()
