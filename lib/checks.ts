/** What must hold before the primary is moved. Each check is a pure function of the survey. */
import { clusterChecks } from './check-cluster.ts'
import { poolerChecks } from './check-poolers.ts'
import { postgresChecks } from './check-postgres.ts'
import type { Member, Survey } from './survey.ts'

/** `warn` is told and asked about, `fail` forbids. */
export interface Verdict {
  check: string
  level: 'ok' | 'warn' | 'fail'
  text: string
  hint?: string
}

export interface Plan {
  /** Undefined where there is none to be had; then another check says why. */
  target?: Member
  pauseExpiryMs: number
  maxLagBytes: number
}

export type Finding = Omit<Verdict, 'check'>
/** Complaints; or, where there are none, one `ok` that says what was found. */
export type Check = (survey: Survey, plan: Plan) => Finding[]

const checks: Record<string, Check> = { ...clusterChecks, ...postgresChecks, ...poolerChecks }

/** Every verdict, in the order of the tables. */
export const check = (survey: Survey, plan: Plan): Verdict[] =>
  Object.entries(checks).flatMap(([name, judge]) =>
    judge(survey, plan).map((finding) => ({ check: name, ...finding })),
  )
