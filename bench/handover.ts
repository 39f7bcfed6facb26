/**
 * What Pacemaker's own chain costs: a promotable clone of a do-nothing agent (ocf:pacemaker:Stateful, notify on) in the
 * same cluster, from the start of `crm_resource --move` to the promoted state on the new node.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../lib/wait.ts'
import { init, inside, nodes } from '../test/cluster/machines.ts'

const clone = 'pgcm-bench-clone'
const xml = `<clone id="${clone}"><meta_attributes id="pgcm-bench-meta">
<nvpair id="pgcm-bench-m1" name="promotable" value="true"/><nvpair id="pgcm-bench-m2" name="notify" value="true"/>
</meta_attributes><primitive id="pgcm-bench" class="ocf" provider="pacemaker" type="Stateful"><operations>
<op id="pgcm-bench-o1" name="monitor" interval="10s" role="Promoted" timeout="20s"/>
<op id="pgcm-bench-o2" name="monitor" interval="11s" role="Unpromoted" timeout="20s"/>
</operations></primitive></clone>`

/** The agent's state file, read from the host: no fork, no Pacemaker. */
function promoted(): string | undefined {
  return nodes.find((node) => {
    for (const dir of ['run', 'run/resource-agents', 'var/run']) {
      try {
        const state = readFileSync(`/proc/${init(node)}/root/${dir}/Stateful-pgcm-bench.state`, 'utf8')
        return /promoted|master/i.test(state) && !/unpromoted|slave/i.test(state)
      } catch {} // not there
    }
    return false
  })
}

/** `runs` moves around the nodes, each in milliseconds. */
export async function handover(runs: number, tell: (text: string) => void): Promise<number[]> {
  const times: number[] = []
  const cib = (...words: string[]) => inside('pg01', ['cibadmin', ...words])
  await cib('--create', '--scope=resources', `--xml-text=${xml}`)
  try {
    for (let run = 0; run < runs; run++) {
      const from = await until('the do-nothing agent is promoted somewhere', { timeoutMs: 30_000 }, promoted)
      const to = nodes[(nodes.indexOf(from) + 1) % nodes.length] as string
      await calm()
      const began = performance.now()
      const move = inside(from, ['crm_resource', '--move', '--promoted', '--resource', clone, '--node', to])
      while (promoted() !== to && performance.now() - began < 20_000) await sleep(1)
      times.push(performance.now() - began)
      tell(`Pacemaker's hand-over ${run + 1}/${runs}: ${Math.round(times.at(-1) as number)} ms`)
      await move
      await inside(from, ['crm_resource', '--clear', '--resource', clone])
    }
  } finally {
    await inside('pg01', [
      'crm_resource',
      '--resource',
      'pgcm-bench',
      '--set-parameter=target-role',
      '--meta',
      '--parameter-value=Stopped',
    ])
    await until('it is stopped', { timeoutMs: 20_000 }, async () => {
      const { stdout } = await inside('pg01', ['crm_resource', '--locate', '--resource', clone], {
        okCodes: [0, 1, 6, 105],
      })
      return !/is running on/.test(stdout)
    })
    await cib('--delete', '--scope=resources', `--xml-text=<clone id="${clone}"/>`)
    await inside('pg01', ['crm_resource', '--cleanup'], { okCodes: [0, 1, 124] })
  }
  return times
}

/** No transition under way. Not `crm_resource --wait`: it sleeps in steps of two seconds. */
const calm = () =>
  until('Pacemaker is idle', { timeoutMs: 20_000, everyMs: 200 }, async () => {
    const dc =
      (await inside('pg01', ['crmadmin', '--quiet', '--dc_lookup'])).stdout.trim().split(/\s+/).at(-1) ??
      'pg01'
    const { stdout } = await inside('pg01', ['crmadmin', '--status', dc], { okCodes: [0, 1, 124] })
    return /S_IDLE/.test(stdout)
  })
