/** What a monitor of a primary says and does. */
import {
  FAILED,
  isAsync,
  isGone,
  isPotential,
  isPrimary,
  isSync,
  lonely,
  PRIMARY,
  primary,
  type Row,
} from './states.ts'

export const ofPrimaries: Row[] = [
  {
    does: 'monitor',
    when: 'a primary has two standbys since now',
    given: primary,
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isPotential('pg03')],
    files: { 'run/pgcm-Postgresql/state': 'primary pg02:streaming:sync pg03:streaming:potential' },
  },
  {
    does: 'monitor',
    when: 'a primary has the standbys it had',
    given: { ...primary, run: { state: 'primary pg02:streaming:sync pg03:streaming:potential' } },
    code: PRIMARY,
  },
  {
    does: 'monitor',
    when: 'the potential standby of a primary took the place of the sync one',
    given: {
      ...primary,
      state: 'primary pg03:streaming:sync',
      run: { state: 'primary pg02:streaming:sync pg03:streaming:potential' },
    },
    code: PRIMARY,
    changes: [...isPrimary, ...isGone('pg02'), ...isSync('pg03')],
  },
  {
    does: 'monitor',
    when: 'a standby of a primary is catching up',
    given: { ...primary, state: 'primary pg02:streaming:sync pg03:catchup:potential' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isAsync('pg03')],
  },
  {
    does: 'monitor',
    when: 'both standbys of a primary count',
    given: { ...primary, state: 'primary pg02:streaming:quorum pg03:streaming:quorum' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isSync('pg03')],
  },
  {
    does: 'monitor',
    when: 'somebody else streams from a primary',
    given: { ...primary, state: 'primary backup:streaming:async pg02:streaming:sync' },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isGone('pg03')],
  },
  {
    does: 'monitor',
    when: 'a primary is alone',
    given: lonely,
    code: PRIMARY,
    changes: [...isPrimary, ...isGone('pg02'), ...isGone('pg03')],
  },
  {
    does: 'monitor',
    when: 'a primary is alone and was voted for',
    given: { ...lonely, run: { state: 'primary ' }, attributes: { 'vote@pg02': '17:10:1000' } },
    code: PRIMARY,
  },
  {
    does: 'monitor',
    when: 'a primary is alone since a call came to nothing',
    given: { ...lonely, run: { state: 'primary ' }, attributes: { 'vote@pg02': '19:17:1000' } },
    code: FAILED,
    reason: 'pg02 has promised epoch 19 and cannot follow epoch 17: a new election is needed',
  },
  {
    does: 'monitor',
    when: 'a primary has its sync standby and the other one has promised more',
    given: { ...primary, state: 'primary pg02:streaming:sync', attributes: { 'vote@pg03': '19:17:1000' } },
    code: PRIMARY,
    changes: [...isPrimary, ...isSync('pg02'), ...isGone('pg03')],
  },
]
