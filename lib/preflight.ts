/** Looking before anything is touched: what the checks say, to people and to machines, and what follows. */
import { check, type Plan, type Verdict } from './checks.ts'
import { colour } from './colour.ts'
import { Failed, Refused } from './errors.ts'
import type { Run, Times } from './run.ts'
import { addressOf, clusterOf, type Member, members, primaryOf, type Survey } from './survey.ts'
import type { Transaction } from './transactions.ts'
import type { View } from './view.ts'

const marks = { ok: colour.green('ok  '), warn: colour.yellow('warn'), fail: colour.red('FAIL') }

function verdictLine({ check: name, level, text }: Verdict): string {
  return `${marks[level]}  ${name.padEnd(12)} ${text}`
}

/**
 * Shows every verdict.
 * @returns the warnings
 * @throws Refused where something forbids the failover
 */
export function judge(survey: Survey, plan: Plan, view: View): Verdict[] {
  const verdicts = check(survey, plan)
  for (const verdict of verdicts) {
    view.say(verdictLine(verdict))
    if (verdict.hint && verdict.level !== 'ok') view.say(colour.grey(`                   ${verdict.hint}`))
    view.record({ event: 'check', ...verdict })
  }
  const fails = verdicts.filter(({ level }) => level === 'fail')
  if (fails[0]) {
    const more = fails.length > 1 ? ` (and ${fails.length - 1} more, above)` : ''
    throw new Refused(`${fails[0].check}: ${fails[0].text}${more}`, fails[0].hint)
  }
  return verdicts.filter(({ level }) => level === 'warn')
}

/** What the operator is asked: the move, and what else comes with it. */
export function question(from: Member, target: Member, doomed: Transaction[], warnings: Verdict[]): string {
  const count = (n: number, what: string) => `the ${n === 1 ? what : `${n} ${what}s`} above`
  return [
    `Move the primary from ${from.name} to ${target.name}`,
    doomed.length > 0 && `, end ${count(doomed.length, 'transaction')}`,
    warnings.length > 0 && `, in spite of ${count(warnings.length, 'warning')}`,
    '?',
  ]
    .filter(Boolean)
    .join('')
}

/**
 * The same checks under the lock, in silence: the world changes while a person reads a prompt.
 * @returns the target, as it is now
 */
export function judgeAgain(survey: Survey, plan: Plan, from: Member): Member {
  const primary = primaryOf(survey)
  if (primary?.name !== from.name)
    throw new Failed(`meanwhile ${primary?.name ?? 'nobody'} is primary instead of ${from.name}`)
  const target = members(survey).find(({ name }) => name === plan.target?.name)
  if (!target) throw new Failed(`meanwhile ${plan.target?.name} does not answer`)
  const fail = check({ ...survey, lock: null }, { ...plan, target }).find(({ level }) => level === 'fail')
  if (fail) throw new Failed(`meanwhile ${fail.check}: ${fail.text}`, fail.hint)
  return target
}

/** Machines whose PgBouncer is to be held. */
const poolersOf = (survey: Survey) =>
  members(survey).flatMap(({ api, status }) => (status.pgbouncer ? [api] : []))

/** All that a survey says of a run. */
export function planRun(
  survey: Survey,
  from: Member,
  target: Member,
  times: Times,
): Omit<Run, 'world' | 'abort' | 'lookAgain' | 'owner' | 'doomed'> {
  const others = members(survey).filter(({ kind, name }) => kind === 'node' && name !== target.name)
  const view = clusterOf(survey)
  return {
    times,
    from,
    target,
    address: addressOf(survey, target) ?? '',
    epoch: view?.epoch.promoted ?? 0,
    poolers: poolersOf(survey),
    nodes: [target, ...others],
    leftover: view?.constraints.some(({ kind }) => kind === 'ours') ?? false,
  }
}
