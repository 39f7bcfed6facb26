/** pgcm-failover against the fake cluster. */
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import type { Expected } from '../lib/errors.ts'
import { failover } from '../lib/failover.ts'
import { fakeCluster, type Meddle } from './fake-cluster.ts'

const QUICK = [
  '--pause-timeout=200ms',
  '--pause-expiry=3s',
  '--resume-timeout=300ms',
  '--pacemaker-timeout=900ms',
]

/** The endpoints as a configuration may have them that does not know the names of the nodes. */
export function byAddress({
  apis,
  statusOf,
}: Pick<ReturnType<typeof fakeCluster>, 'apis' | 'statusOf'>): void {
  for (const [name, api] of apis) Object.assign(api, { name: statusOf(name).address })
}

export function scene(flags: string[] = ['--yes'], meddle?: Meddle) {
  const controller = new AbortController()
  const abort = (reason: Error) => controller.abort(reason)
  const cluster = fakeCluster(meddle)
  const text: string[] = []
  const { config } = load('failover', [...QUICK, ...flags], { PGCM_CONFIG_FILE: '/dev/null' })
  const run = () =>
    failover({
      config,
      world: cluster.world,
      out: { write: (more) => text.push(more) },
      stdin: {},
      env: {},
      interrupts: () => ({ signal: controller.signal, abort, dispose() {} }),
    }).then(
      () => undefined,
      (error: Expected) => error,
    )
  return { ...cluster, config, abort, run, text: () => text.join('') }
}

/** Nothing is left of a run, whatever happened to it. */
export function clean({ state, text }: ReturnType<typeof scene>, what = '') {
  assert.equal([...state.paused.keys()], [], `${what}: still paused\n${text()}`)
  assert.is(state.constraint, null, `${what}: constraint left\n${text()}`)
  assert.is(state.locked, false, `${what}: locked\n${text()}`)
  assert.equal(state.letGoWrongly, [], `${what}: let go onto nowhere\n${text()}`)
}
