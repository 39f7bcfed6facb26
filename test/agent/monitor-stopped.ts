/** What a monitor says of a PostgreSQL that is stopped. */
import {
  alone,
  children,
  died,
  FAILED,
  OK,
  PG02_IS_PRIMARY,
  PRIMARY,
  primary,
  type Row,
  STAYS_OUT,
  STOPPED,
  TWO_STANDBYS,
  withoutPrograms,
} from './states.ts'

export const whenStopped: Row[] = [
  { does: 'probe', when: 'it is stopped', given: {}, code: STOPPED },
  {
    does: 'probe',
    when: 'it is stopped and nothing is installed',
    given: { twist: withoutPrograms },
    code: STOPPED,
  },
  { does: 'probe', when: 'a standby runs', given: alone, code: OK },
  { does: 'probe', when: 'a primary runs', given: primary, code: PRIMARY },
  { does: 'probe', when: 'a former primary may not start', given: { ...died, pending: true }, code: STOPPED },
  { does: 'probe', when: 'only children run', given: children, code: FAILED, reason: 'postmaster is gone' },

  { does: 'monitor', when: 'a standby died', given: { promise: 10, promoted: { pg02: 10 } }, code: STOPPED },
  { does: 'monitor', when: 'a primary died and nobody else runs', given: died, code: STOPPED },
  {
    does: 'monitor',
    when: 'a primary died and one other runs, too few to elect',
    given: { ...died, attributes: { 'status@pg02': 'HS:sync', 'status@pg03': 'STOP' } },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'a primary died and the others can elect without it',
    given: { ...died, attributes: TWO_STANDBYS },
    code: STAYS_OUT,
    reason: 'was primary of epoch 17 and stopped: run pgcm-rejoin on pg01',
  },
  {
    does: 'monitor',
    when: 'it is stopped, the cluster has moved on, and there is no primary any more',
    given: { ...died, promoted: { pg01: 17, pg02: 18 } },
    code: STOPPED,
  },
  {
    does: 'monitor',
    when: 'it is stopped and there is a primary of its own epoch',
    given: { ...died, attributes: PG02_IS_PRIMARY },
    code: STAYS_OUT,
    reason: 'was primary of epoch 17 and pg02 is primary now: run pgcm-rejoin on pg01',
  },
  {
    does: 'monitor',
    when: 'a primary died of a full disk',
    given: { ...died, attributes: PG02_IS_PRIMARY, broken: { disk: '' } },
    code: STAYS_OUT,
    reason:
      'was primary of epoch 17 and pg02 is primary now, and the disk here is full: run pgcm-rejoin on pg01',
  },
  {
    does: 'monitor',
    when: 'it is stopped and a rejoin was interrupted',
    given: { pending: true },
    code: STAYS_OUT,
    reason: 'pgcm-rejoin was interrupted: run it again',
  },
]
