/**
 * ocf-tester of resource-agents, on the agent with real PostgreSQL. It calls the actions bare, and this agent promotes
 * nobody who has not been elected; so what Pacemaker does around an action is done by a wrapper: the notifications of a
 * promotion, and the start of what a demotion has stopped.
 */
import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { sh } from '../lib/sh.ts'
import { type NODES, programs, Rig } from './agent/rig.ts'
import { AGENT } from './agent/world.ts'

const { bindir, missing } = programs()
let rig: Rig
process.on('exit', () => rig?.destroy())

const quoted = (words: string[]) => words.map((word) => `'${word.replace(/'/g, "'\\''")}'`).join(' ')

function wrapper(): string {
  const agent = join(rig.dir, 'pgsql')
  copyFileSync(AGENT, agent) // ocf-tester reads it as nobody, who may not enter where the repository is
  const on = (node: (typeof NODES)[number]) => {
    const { PATH: _, ...environment } = rig.environment(node)
    environment.OCF_RESKEY_vote_timeout = '15' // a busy machine
    return quoted([
      'env',
      ...Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      '/bin/sh',
      agent,
    ])
  }
  return `#!/bin/sh
PATH='${rig.environment('pg01').PATH}'
own() { ${on('pg01')} "$@"; }
notify() {
	export OCF_RESKEY_CRM_meta_notify_type=$1 OCF_RESKEY_CRM_meta_notify_operation=promote OCF_RESKEY_CRM_meta_notify_promote_uname=pg01
	${on('pg01')} notify # as after its start: it has called before the others are asked
${(['pg02', 'pg03'] as const).map((node) => `\t${on(node)} notify &`).join('\n')}
	wait
}
case $1 in
meta-data) own meta-data | sed '1a<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">' ;; # ocf-tester knows the DTD only
promote)
	OCF_RESKEY_CRM_meta_interval=0 own monitor
	case $? in
	7) own start || exit ;;
	8) own promote; exit ;;
	esac
	notify pre
	own promote || exit
	notify post
	;;
stop)
	own stop || exit
	rm -f '${rig.path('pg01', 'tmp/PGSQL.lock')}' # as pgcm-rejoin does for a former primary
	;;
*) own "$@" ;;
esac
`
}

if (missing) {
  test('ocf-tester cannot be run here', () => console.log(`# SKIPPED: ocf-tester: ${missing}`))
} else {
  test('ocf-tester finds nothing', async () => {
    rig = await Rig.make(bindir)
    assert.equal(await rig.agents(['pg02', 'pg03'], 'start'), [0, 0])
    const file = join(rig.dir, 'wrapped')
    writeFileSync(file, wrapper(), { mode: 0o755 })
    const { stdout, stderr, code } = await sh(['/usr/sbin/ocf-tester', '-n', 'Postgresql', file], {
      timeoutMs: 120_000,
      okCodes: [0, 1, 127],
    })
    assert.is.not(code, 127, 'ocf-tester is not installed: apt install pacemaker-cli-utils')
    const complaints = stdout.split('\n').filter((line) => /^\* rc=/.test(line))
    assert.equal(complaints, [], `${stdout}${stderr}`)
    assert.match(stdout, /passed all tests/)
    // It ran to its end, and really promoted: three elections, each an epoch of pg01's class.
    assert.is(await rig.agent('pg01', 'start').then(({ code }) => code), 0)
    assert.is(await rig.sql('pg01', 'SELECT timeline_id FROM pg_control_checkpoint()'), '25')
  })
}

test.run()
