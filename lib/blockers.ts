/** Saying whose transactions kept clients from being held. */
import { type Api, ApiError, type Blocker } from './api.ts'
import { Failed } from './errors.ts'
import { describe } from './pgbouncer.ts'

/** The blockers that an error brings. */
export const blockersOf = (error: unknown): Blocker[] => (error instanceof ApiError ? error.blockers : [])

/** PgBouncers could not pause because of these. Nothing has been done to them. */
export class Blocked extends Failed {
  readonly blockers: Blocker[]

  constructor(blockers: Blocker[]) {
    super(
      `open transactions kept clients from being held: ${blockers.map(describe).join('; ')}`,
      'They were not touched. Wait for them to end, end them, or allow a longer --pause-timeout.',
    )
    this.blockers = blockers
  }
}

/** The same, with the state and age that the primary knows of each: a PgBouncer only knows that it is in a transaction. */
export async function explained(error: unknown, primary: Api): Promise<unknown> {
  if (!(error instanceof Blocked)) return error
  const status = await primary.status({ deadlineMs: 2000 }).catch(() => null)
  const known = new Map(status?.postgres?.longest.map((each) => [each.client, each]))
  return new Blocked(
    error.blockers.map((blocker) => {
      const found = blocker.via ? known.get(blocker.via) : undefined
      return found ? { ...blocker, state: found.state, ageMs: found.ageMs } : blocker
    }),
  )
}
