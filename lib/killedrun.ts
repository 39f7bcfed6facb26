/** What a failover that was killed has left, and the undoing of it: its pauses, its move constraint, its lock. */
import type { Api } from './api.ts'
import { Failed, messageOf } from './errors.ts'
import type { Step } from './pipeline.ts'
import { release, settle } from './reach.ts'
import type { Receipt } from './receipt.ts'
import type { Base, Times } from './run.ts'
import { lock } from './steps.ts'
import { clusterOf, type Holder, isOrphan, type Member, members, primaryOf, type Survey } from './survey.ts'
import { now } from './wait.ts'

export interface Aftermath {
  lock: Holder | null
  constraint: boolean
  held: { api: Api; owner: string; expiresAt: string }[]
}

/** Undefined where there is nothing, or where its run may still live. */
export function aftermathOf(survey: Survey): Aftermath | undefined {
  const { lock } = survey
  if (survey.etcdError !== undefined || (lock && !lock.dead)) return undefined
  const constraint = clusterOf(survey)?.constraints.some(({ kind }) => kind === 'ours') ?? false
  const held = members(survey).flatMap(({ api, status: { pause } }) =>
    pause && isOrphan(survey, pause) ? [{ api, ...pause }] : [],
  )
  return lock || constraint || held.length > 0 ? { lock, constraint, held } : undefined
}

/** What was found, a line each. `last` is the newest record of the history. */
export function foundLines({ lock, constraint, held }: Aftermath, survey: Survey, last?: Receipt): string[] {
  const primary = primaryOf(survey)?.name
  const open = last?.ok === null ? last : undefined
  return [
    'a failover was killed; found of it:',
    ...(open
      ? [
          `  its record: begun at ${open.at}, to move the primary from ${open.from} to ${open.to}; the primary is ${primary ?? 'nobody'}${primary === open.to ? ', so it had moved' : ''}`,
        ]
      : []),
    ...(lock ? [`  its lock: ${lock.command} (pid ${lock.pid}) on ${lock.host} since ${lock.since}`] : []),
    ...(constraint ? ['  its move constraint'] : []),
    ...held.map(
      ({ api, expiresAt }) => `  its pause: the PgBouncer on ${api.name} holds clients until ${expiresAt}`,
    ),
  ]
}

/** Takes its lock, removes its constraint, and lets its clients go: in this order, or they would meet one more move. */
export const undoing = (times: Times, { held }: Aftermath): Step<Base>[] => [
  lock(times),
  ...(held.length > 0 ? [letGo(held)] : []),
]

const letGo = (held: Aftermath['held']): Step<Base> => ({
  name: 'let go',
  describe: () => held.map(({ api, owner }) => `rpc resume {owner: ${owner}} -> ${api.name}`),
  async run(run, signal, tell) {
    run.pausedAt = now() // it ended before ours would
    const address = await settle(run, signal, tell)
    signal.throwIfAborted()
    if (address === undefined)
      throw new Failed(
        'no primary takes writes',
        'The PgBouncers resume by themselves at the end of their pauses.',
      )
    const results = await Promise.allSettled(
      held.map(({ api, owner }) => release(run, api, owner, address, signal)),
    )
    const errors = results.flatMap((each) => (each.status === 'rejected' ? [messageOf(each.reason)] : []))
    if (errors.length > 0) throw new Failed(errors.join('; '))
    tell(`the clients of ${held.length} PgBouncers go on, at ${address}`)
  },
})

/** What the undoing of it needs to know. */
export function baseFor(
  survey: Survey,
  aftermath: Aftermath,
): Omit<Base, 'world' | 'times' | 'owner' | 'abort'> {
  const nodes = members(survey).filter(({ kind }) => kind === 'node')
  const primaryFirst = (a: Member) => (a.name === primaryOf(survey)?.name ? -1 : 1)
  return {
    address: survey.published ?? '',
    epoch: clusterOf(survey)?.epoch.promoted ?? 0,
    nodes: nodes.sort(primaryFirst),
    leftover: aftermath.constraint,
  }
}
