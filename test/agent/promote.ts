/** What a promotion needs, and what it leaves. */
import { alone, conf, FAILED, isPrimary, later, OK, patient, primary, type Row } from './states.ts'
import type { Given } from './world.ts'

export const votes = (own: string, ...others: string[]): Record<string, string> =>
  Object.fromEntries([own, ...others].map((vote, index) => [`vote@pg0${index + 1}`, vote]))
/** pg01 has called epoch 17 and is cut off; it holds the WAL of epoch 10 up to 1000. */
export const candidate: Given = {
  ...alone,
  promise: 17,
  run: { call: 17, vote: '17:10:1000\npg01 0 t' },
  history: [10],
  attributes: { 'call@pg01': '17', ...votes('17:10:1000', '17:10:1000') },
}
const asking = (attributes: Record<string, string>): Given => ({
  ...candidate,
  attributes: { 'call@pg01': '17', ...attributes },
})
const gaveUp = ['call@pg01 withdrawn', 'vote@pg01 withdrawn']
const isPromoted = ['promote', ...isPrimary]
const lost = (winner: string, score = 100) => [`score@${winner}=${score}`, 'score@pg01=1', ...gaveUp]
/** It asks the better one for what it lacks. */
const catchesUp = ['HUP', 'catch_up', 'HUP', 'position']

export const promotes: Row[] = [
  {
    does: 'promote',
    when: 'two of three have voted and hold no more: it is no mere voter any more',
    given: { ...candidate, run: { ...candidate.run, electing: '99999999999' } },
    code: OK,
    changes: isPromoted,
    order: ['sync PGSQL.lock.new', 'promote', 'status@pg01=PRI'],
    files: {
      'tmp/PGSQL.lock': '17',
      'run/pgcm-Postgresql/call': false,
      'run/pgcm-Postgresql/promoting': false,
      'run/pgcm-Postgresql/electing': '',
    },
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  {
    does: 'promote',
    when: 'all three have voted',
    given: asking(votes('17:10:1000', '17:10:1000', '17:10:999')),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'another one has more WAL of an older timeline',
    given: asking(votes('17:10:1000', '17:3:5000')),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the vote that it needs comes late',
    given: {
      ...asking(votes('17:10:1000')),
      ...patient,
      twist: later('attrs/Postgresql-vote@pg03', '17:10:1000'),
    },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'nobody else has voted: the call stands, and a former primary that stays out is asked in',
    given: asking({ ...votes('17:10:1000'), 'status@pg02': 'HS:alone', 'status@pg03': 'STOP' }),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2 of: pg01 pg02 pg03',
    changes: ['cleanup pg03'],
    files: { 'run/pgcm-Postgresql/call': '17' },
  },
  {
    does: 'promote',
    when: 'it has no vote of its own',
    given: asking({ 'vote@pg02': '17:10:1', 'vote@pg03': '17:10:1' }),
    code: FAILED,
    reason: 'epoch 17 has votes of pg02 pg03, needs',
  },
  {
    does: 'promote',
    when: 'the others voted for another epoch, one of them for a newer one: the next call is a new one',
    given: asking(votes('17:10:1000', '11:10:1000', '161:10:1000')),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2',
    changes: gaveUp,
    files: { 'run/pgcm-Postgresql/call': false },
  },
  {
    does: 'promote',
    when: 'the others could not tell what they hold',
    given: asking(votes('17:10:1000', '17:0:0', '17:0:0')),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2',
  },
  {
    does: 'promote',
    when: 'three of five are needed and two have voted',
    given: { ...candidate, parameters: { node_list: 'pg01 pg02 pg03 pg04 pg05' } },
    code: FAILED,
    reason: 'epoch 17 has votes of pg01 pg02, needs 3 of: pg01 pg02 pg03 pg04 pg05',
  },
  {
    does: 'promote',
    when: 'nothing was called',
    given: { ...alone, attributes: votes('11:10:1000', '11:10:1000') },
    code: FAILED,
    reason: 'no epoch was called for this promotion',
  },
  {
    does: 'promote',
    when: 'another one has one byte more, which it fetches',
    given: { ...asking(votes('17:10:1000', '17:10:1000', '17:10:1001')), position: '10:1001:t:t' },
    code: OK,
    changes: [...catchesUp, ...isPromoted],
    order: ['catch_up', 'position', 'promote'],
    files: { 'tmp/replication.conf': conf('') },
  },
  {
    does: 'promote',
    when: 'another one has one byte more, and cannot be reached',
    given: asking(votes('17:10:1000', '17:10:1000', '17:10:1001')),
    code: FAILED,
    reason: 'pg03 holds more WAL than pg01, so it has to be primary',
    changes: [...catchesUp, ...lost('pg03')],
    files: { 'tmp/replication.conf': conf('') },
  },
  {
    does: 'promote',
    when: 'it fetched all that another one has more, but is not cut off again',
    given: { ...asking(votes('17:10:1000', '17:10:1000', '17:10:1001')), position: '10:1001:f:t' },
    code: FAILED,
    reason: 'pg03 holds more WAL than pg01, so it has to be primary',
    changes: [...catchesUp, ...lost('pg03')],
  },
  {
    does: 'promote',
    when: 'both others have more: the better one wins',
    given: asking(votes('17:10:1000', '17:10:3000', '17:10:2000')),
    code: FAILED,
    reason: 'pg02 holds more WAL than pg01',
    changes: [...catchesUp, ...lost('pg02')],
  },
  {
    does: 'promote',
    when: 'every connection comes with a warning',
    given: { ...candidate, broken: { warning: '' } },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'it is primary already',
    given: primary,
    code: OK,
  },
  {
    does: 'promote',
    when: 'another one has less WAL, of a newer timeline',
    given: asking(votes('17:10:1000', '17:11:900')),
    code: FAILED,
    reason: 'pg02 holds more WAL than pg01',
    changes: lost('pg02'),
  },
  {
    does: 'promote',
    when: 'it has promised a newer epoch meanwhile',
    given: { ...candidate, promise: 18 },
    code: FAILED,
    reason: 'promised a newer epoch meanwhile',
    changes: 'any',
  },
  {
    does: 'promote',
    when: 'the old primary was shut down and all of it was received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'vote@pg03': '10:10:999:down' }),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the old primary was shut down and its end was not received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'vote@pg03': '10:10:1000:down' }),
    code: FAILED,
    reason: 'pg03 has WAL up to 3E8 that pg01 has not received: pg03 has to be primary again',
    changes: ['cleanup pg03', ...lost('pg03', 1000)],
  },
  {
    does: 'promote',
    when: 'a primary of long ago was shut down further on',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'vote@pg03': '10:3:5000:down' }),
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the old primary was shut down in an epoch that was never received',
    given: asking({ ...votes('17:10:1000', '17:10:1000'), 'vote@pg03': '10:11:900:down' }),
    code: FAILED,
    reason: 'pg03 has to be primary again',
    changes: ['cleanup pg03', ...lost('pg03', 1000)],
  },
  {
    does: 'promote',
    when: 'the old primary was shut down after a promise of this epoch: that is no vote',
    given: asking({ ...votes('17:10:1000'), 'vote@pg03': '17:10:900:down' }),
    code: FAILED,
    reason: 'epoch 17 has votes of pg01, needs 2',
  },
  {
    does: 'promote',
    when: 'the votes were gathered before: it asks nobody',
    given: {
      ...candidate,
      run: { ...candidate.run, votes: 'pg01 17:10:1000\npg02 17:10:1000\npg03 17:10:900' },
      attributes: {},
    },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the votes and the orderly end of the old primary were gathered before: it asks nobody',
    given: {
      ...candidate,
      run: { ...candidate.run, votes: 'pg01 17:10:1000\npg02 17:10:1000\npg03 10:10:999:down' },
      attributes: {},
    },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'it has gathered the votes of the quickest, and another one holds more: it asks again',
    given: {
      ...asking(votes('17:10:1000', '17:10:1000', '17:10:1001')),
      run: { ...candidate.run, votes: 'pg01 17:10:1000\npg02 17:10:1000' },
      position: '10:1001:t:t',
    },
    code: OK,
    changes: [...catchesUp, ...isPromoted],
  },
  {
    does: 'promote',
    when: 'the votes that were gathered before are not enough, or of another epoch: it asks again',
    given: {
      ...candidate,
      run: { ...candidate.run, votes: 'pg01 17:10:1000\npg02 16:10:1000\npg03 17:0:0' },
    },
    code: OK,
    changes: isPromoted,
  },
  {
    does: 'promote',
    when: 'the disk is full',
    given: { ...candidate, broken: { disk: '' } },
    code: FAILED,
    reason: 'cannot write to the disk',
    changes: 'any',
    check: (world) => (world.changes.includes('promote') ? 'promoted without a lock file' : undefined),
  },
  {
    does: 'promote',
    when: 'placeholders cannot be made',
    given: { ...candidate, broken: { chown: '' } },
    code: FAILED,
    reason: 'cannot write to the disk',
    changes: 'any',
    check: (world) => (world.changes.includes('promote') ? 'promoted to any timeline' : undefined),
  },
  {
    does: 'promote',
    when: 'it would be primary without synchronous standbys',
    given: { ...candidate, run: { ...candidate.run, vote: '17:10:1000\npg01 0 f' } },
    code: FAILED,
    reason: 'synchronous_standby_names is not that of',
    changes: 'any',
    check: (world) => (world.changes.includes('promote') ? 'promoted without standbys' : undefined),
  },
  {
    does: 'promote',
    when: 'PostgreSQL refuses',
    given: { ...candidate, broken: { promote: 'pg_ctl: could not send promote signal' } },
    code: FAILED,
    reason: 'not promoted: pg_ctl: could not send promote signal',
    changes: 'any',
    check: (world) =>
      world.read('run/pgcm-Postgresql/promoting') ? undefined : 'forgot that it may still promote',
  },
  {
    does: 'promote',
    when: 'the postmaster has died: another one has to be chosen',
    given: { ...candidate, processes: undefined },
    code: FAILED,
    reason: 'PostgreSQL does not run here',
    changes: ['score@pg01=-INFINITY'],
  },
]
