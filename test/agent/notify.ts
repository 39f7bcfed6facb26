/** What a node does when it hears of the actions of others: the calls and the votes. */

import { spawnSync } from 'node:child_process'
import { renameSync, rmSync, statSync } from 'node:fs'
import { until } from '../../lib/wait.ts'
import { candidate } from './promote.ts'
import {
  alone,
  conf,
  died,
  later,
  OK,
  PG02_IS_PRIMARY,
  patient,
  primary,
  type Row,
  running,
  standby,
  to,
} from './states.ts'
import type { Given, World } from './world.ts'

const called = (epoch: number) => ({ 'call@pg02': `${epoch}` })
/** The former primary is still at work. */
const streams: Given = { broken: { let_go: '' } }
/** The one that is demoted is the primary. */
const PG03_IS_PRIMARY = { 'status@pg03': 'PRI' }
/** pg01 has called and is let go; the others have told this. */
const takingOver = (attributes: Record<string, string>): Given => ({
  ...standby,
  run: { call: 17 },
  history: [10],
  placeholders: [11, 12, 13, 14, 15, 16],
  attributes: { ...PG03_IS_PRIMARY, ...attributes },
})
/** The primary, whose role is to go to pg02. */
const moving: Given = { ...primary, promise: 17, attributes: { ...called(18), 'status@pg01': 'PRI' } }
/** Its demotion is held until then; or until the agent has seen it, when it is called off, or goes on. */
const held =
  (deadline: string, then?: 'removed' | 'go') =>
  (world: World): void => {
    world.write('hold', deadline)
    if (!then) return
    const end = () =>
      then === 'go' ? renameSync(world.path('hold'), world.path('hold.go')) : rmSync(world.path('hold'))
    until('it waits', { timeoutMs: 20_000, everyMs: 5 }, () => world.has('run/pgcm-Postgresql/holding')).then(
      end,
      () => {}, // then the file is still there, which the row does not allow
    )
  }
/** Somebody else votes or promotes for so many seconds: the lock is a descendant's. */
const lockedFor = (seconds: number) => (world: World) => {
  const script = `exec 9>"$1"; flock 9; sleep ${seconds} &`
  spawnSync('sh', ['-c', script, 'sh', world.path('run/pgcm-Postgresql/lock')], { stdio: 'ignore' })
}
/** It has PostgreSQL look up what it needs for a position, and waits for the former primary. */
const waits = ['position', 'let_go']
const called17 = ['call@pg01=17 private', ...waits, 'HUP', 'position']
const voted = (vote: string, node = 'pg01') => ['HUP', 'position', `vote@${node}=${vote} private`]

export const notifications: Row[] = [
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it is to be the next primary: it calls while the old one is at work',
    given: { attributes: PG03_IS_PRIMARY, ...standby, ...streams, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private', ...waits],
    order: ['sync called.new', 'call@pg01=17 private'],
    files: { 'tmp/called': '17', 'tmp/promise': '10', 'run/pgcm-Postgresql/call': '17' },
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it calls: pg_rewind writes into the files that it finds, so each placeholder is one of its own',
    given: { attributes: PG03_IS_PRIMARY, ...standby, ...streams, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private', ...waits],
    check: (world) =>
      statSync(world.path('data/pg_wal/0000000B.history')).nlink === 1 ? undefined : 'it has several names',
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it calls: an earlier one was killed while it made placeholders, and others went on',
    given: {
      attributes: PG03_IS_PRIMARY,
      ...standby,
      ...streams,
      history: [10],
      twist: (world) => world.write('data/pg_wal/pgcm.placeholders/00000009.history', '# pgcm placeholder'),
    },
    code: OK,
    changes: ['call@pg01=17 private', ...waits],
    check: (world) => (world.has('data/pg_wal/pgcm.placeholders') ? 'the rest is still there' : undefined),
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'the former primary has let it go: it votes as soon as it has called, and keeps its own vote to itself',
    given: { attributes: PG03_IS_PRIMARY, ...standby, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private', ...waits, 'HUP', 'position'],
    order: ['call@pg01=17 private', ...waits],
    files: { 'tmp/promise': '17', 'tmp/replication.conf': conf('') },
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'the former primary has let it go: it votes, and attaches to the candidate, of which it has no history to fetch but one',
    given: { ...standby, history: [10], attributes: { ...called(18), ...PG03_IS_PRIMARY } },
    code: OK,
    changes: [...waits, ...voted('18:10:1000'), 'HUP'],
    order: [...waits, 'vote@pg01=18:10:1000 private'],
    files: { 'tmp/promise': '18', 'tmp/replication.conf': to(2) },
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?,17?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'enough have voted and the primary was shut down in order: it takes over, and Pacemaker may come later',
    given: takingOver({ 'vote@pg02': '17:10:1000', 'vote@pg03': '10:10:999:down' }),
    code: OK,
    changes: [...called17, 'promote'],
    order: ['sync PGSQL.lock.new', 'promote'],
    files: {
      'tmp/PGSQL.lock': '17',
      'run/pgcm-Postgresql/call': false,
      'run/pgcm-Postgresql/promoting': false,
    },
    check: (world) =>
      /^\d+ 00000000000003E8 17$/.test(world.read('run/pgcm-Postgresql/promoted')) &&
      /^\d+$/.test(world.read('run/pgcm-Postgresql/electing'))
        ? undefined
        : 'it does not say so',
  },
  ...(
    [
      ['nobody has told that it was shut down', { 'vote@pg02': '17:10:1000', 'vote@pg03': '10:0:0' }],
      ['another one was shut down', { 'vote@pg02': '10:10:999:down', 'vote@pg03': '17:10:1000' }],
      ['nobody else has voted', { 'vote@pg02': '10:0:0', 'vote@pg03': '10:10:999:down' }],
    ] as [string, Record<string, string>][]
  ).map(
    ([when, votes]): Row => ({
      does: 'notify pre-demote pg01 pg03',
      when: `${when}: it leaves the promotion to Pacemaker`,
      given: takingOver(votes),
      code: OK,
      changes: called17,
      files: { 'run/pgcm-Postgresql/call': '17', 'tmp/PGSQL.lock': false },
    }),
  ),
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'the primary has died: its word is not waited for, as the others wait for this',
    given: { ...takingOver({ 'vote@pg02': '17:10:1000' }), broken: { died: '' } },
    code: OK,
    changes: called17,
    check: (world) => {
      const asked = world.log.filter((line) => line === 'attrd_updater -QA -n Postgresql-vote').length
      return asked > 1 ? `it asks ${asked} times` : undefined
    },
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it comes late, the primary has let it go and told that it was shut down in order: it takes over',
    given: {
      ...takingOver({ 'vote@pg02': '17:10:1000', 'vote@pg03': '10:10:999:down' }),
      broken: { died: '' },
    },
    code: OK,
    changes: [...called17, 'promote'],
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'placeholders of an earlier call would hide the epoch of this one',
    given: {
      ...standby,
      ...streams,
      history: [10],
      placeholders: [15, 16, 17, 18, 19, 20],
      attributes: { ...called(18), ...PG03_IS_PRIMARY },
    },
    code: OK,
    changes: waits,
    check: (world) =>
      world.timelines.join() === '10,11?,12?,13?,14?,15?,16?,17?'
        ? undefined
        : `history files ${world.timelines}`,
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'the primary was shut down further on than it has received: that one has to be primary again',
    given: takingOver({ 'vote@pg02': '17:10:1000', 'vote@pg03': '10:10:1000:down' }),
    code: OK,
    changes: [...called17, 'score@pg03=1000', 'score@pg01=1', 'cleanup pg03'],
    files: { 'run/pgcm-Postgresql/call': '17', 'tmp/PGSQL.lock': false },
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it would be primary without synchronous standbys: the promotion is to say so',
    given: {
      ...takingOver({ 'vote@pg02': '17:10:1000', 'vote@pg03': '10:10:999:down' }),
      position: '10:1000:t:f',
    },
    code: OK,
    changes: called17,
    files: { 'run/pgcm-Postgresql/call': '17' },
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'PostgreSQL may have begun to promote and does not say: the promotion goes on with it',
    given: {
      ...takingOver({ 'vote@pg02': '17:10:1000', 'vote@pg03': '10:10:999:down' }),
      broken: { promote: 'FATAL:  terminating connection due to administrator command' },
    },
    code: OK,
    changes: [...called17, 'promote'],
    files: { 'run/pgcm-Postgresql/call': '17' },
    check: (world) =>
      world.read('run/pgcm-Postgresql/promoting') ? undefined : 'forgot that it may still promote',
  },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'it has taken over, and Pacemaker has begun anew',
    given: { ...primary, attributes: PG03_IS_PRIMARY },
    code: OK,
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'it has voted, streams from the candidate, and Pacemaker has begun anew',
    given: {
      ...standby,
      ...streams,
      promise: 18,
      run: { vote: '18:10:1000\npg02 0 t' },
      history: [10],
      placeholders: [11, 12, 13, 14, 15, 16, 17],
      attributes: { ...called(18), ...PG03_IS_PRIMARY },
    },
    code: OK,
    changes: ['vote@pg01=18:10:1000 private'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'its session does not hear of the reload: it tells that it cannot vote',
    given: { ...standby, attributes: called(18), broken: { reload: 'host=10.0.0.1' } },
    code: OK,
    changes: ['HUP', 'vote@pg01=18:0:0 private'],
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'it still streams from the former primary: no vote yet',
    given: { ...standby, ...streams, attributes: { ...called(18), ...PG03_IS_PRIMARY } },
    code: OK,
    changes: waits,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-demote pg01 pg02',
    when: 'it is no primary that is to be demoted, so it lets nobody go: no vote yet',
    given: { ...standby, history: [10], attributes: { 'status@pg02': 'HS:sync' } },
    code: OK,
    changes: ['call@pg01=17 private'],
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-demote pg01 pg02',
    when: 'the primary that is to be demoted lets it go',
    given: { ...standby, history: [10], attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['call@pg01=17 private', ...waits, 'HUP', 'position'],
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'it is the primary that is to be demoted',
    given: { ...primary, promise: 17, attributes: { ...called(18), 'status@pg01': 'PRI' } },
    code: OK,
    changes: [],
    files: { 'tmp/promise': '17' },
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'a planned failover holds its demotion: it waits until it is let go',
    given: { ...moving, twist: held('99999999999', 'removed') },
    code: OK,
    files: { hold: false, 'run/pgcm-Postgresql/holding': false },
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'a planned failover has paused its clients: it shuts down before it is demoted, and says where',
    given: { ...moving, control: ['shut down', '1/3000028'], twist: held('99999999999', 'go') },
    code: OK,
    changes: ['INT', 'vote@pg01=17:17:4345298984:down private'],
    order: ['INT', 'vote@pg01=17:17:4345298984:down private'],
    files: { 'hold.go': false, 'run/pgcm-Postgresql/holding': false, 'tmp/promise': '17' },
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'the demotion of another goes on',
    given: {
      ...standby,
      ...streams,
      attributes: { ...called(18), ...PG03_IS_PRIMARY },
      twist: (world) => world.write('hold.go', ''),
    },
    code: OK,
    changes: waits,
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'its demotion was held until a moment that has passed',
    given: { ...moving, twist: held('1') },
    code: OK,
    files: { 'run/pgcm-Postgresql/holding': false },
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'whoever holds its demotion does not say until when',
    given: { ...moving, twist: held('tomorrow') },
    code: OK,
  },
  {
    does: 'notify pre-demote pg02 pg01',
    when: 'its demotion is held, and PostgreSQL has died',
    given: { ...died, twist: held('99999999999') },
    code: OK,
    files: { 'run/pgcm-Postgresql/holding': false },
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'the demotion of another is held: it waits for nothing but a call',
    given: {
      ...standby,
      ...streams,
      attributes: { ...called(18), ...PG03_IS_PRIMARY },
      twist: held('99999999999'),
    },
    code: OK,
    changes: waits,
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has voted in the same transition',
    given: {
      ...standby,
      promise: 18,
      run: { vote: `18:10:1000\npg02 ${Number.MAX_SAFE_INTEGER} t` },
      attributes: called(18),
    },
    code: OK,
    changes: [],
  },
  {
    does: 'notify post-demote pg02',
    when: 'what it was asked before is under way, and may be a mere call: it votes after that',
    given: { ...standby, attributes: called(18), twist: lockedFor(0.5) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
  },
  {
    does: 'notify pre-demote pg02 pg03',
    when: 'another one is to be primary',
    given: standby,
    code: OK,
  },
  { does: 'notify pre-demote', when: 'nobody is to be primary', given: standby, code: OK },
  { does: 'notify pre-demote pg01', when: 'it is stopped', given: died, code: OK },
  {
    does: 'notify pre-demote pg01 pg03',
    when: 'the disk is full',
    given: { attributes: PG03_IS_PRIMARY, ...standby, broken: { disk: '' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/call': false },
  },
  {
    does: 'notify pre-promote pg01',
    when: 'it has not called yet',
    given: { ...alone, history: [10] },
    code: OK,
    changes: ['call@pg01=17 private', 'HUP', 'position', 'vote@pg01=17:10:1000 private'],
    order: ['sync called.new', 'call@pg01=17 private', 'sync promise.new', 'vote@pg01=17:10:1000 private'],
    files: { 'tmp/promise': '17', 'tmp/replication.conf': conf('') },
  },
  {
    does: 'notify pre-promote pg01',
    when: 'it has called',
    given: { ...alone, promise: 17, run: { call: 17 }, attributes: { 'call@pg01': '17' } },
    code: OK,
    changes: ['call@pg01=17 private', ...voted('17:10:1000')],
  },
  {
    does: 'notify pre-promote pg01',
    when: 'its call got lost: the attribute daemon was restarted',
    given: { ...alone, promise: 17, run: { call: 17 } },
    code: OK,
    changes: ['call@pg01=17 private', ...voted('17:10:1000')],
  },
  {
    does: 'notify pre-promote pg01',
    when: 'it has voted: it says so again and does nothing else',
    given: candidate,
    code: OK,
    changes: ['vote@pg01=17:10:1000 private'],
  },
  {
    does: 'notify pre-promote pg01',
    when: 'a newer epoch was promised since its call',
    given: { ...alone, promise: 18, run: { call: 17 }, history: [10] },
    code: OK,
    changes: ['call@pg01=25 private', ...voted('25:10:1000')],
    files: { 'tmp/promise': '25' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'a standby is asked: it promises, cuts itself off, tells, and attaches to the candidate',
    given: { ...standby, attributes: called(18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
    order: ['sync promise.new', 'vote@pg01=18:10:1000 private'],
    files: { 'tmp/promise': '18', 'tmp/replication.conf': to(2) },
    check: (world) =>
      /^18:10:1000\npg02 \d+ t$/.test(world.read('run/pgcm-Postgresql/vote')) &&
      /^\d+$/.test(world.read('run/pgcm-Postgresql/electing'))
        ? undefined
        : 'forgets its vote',
  },
  {
    does: 'notify post-demote pg02',
    when: 'a standby is asked in a planned failover',
    given: { ...standby, attributes: called(18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
  },
  {
    does: 'notify post-demote pg02 pg01',
    when: 'it was the primary: it tells where it was shut down',
    given: { ...died, control: ['shut down', '1/3000028'], attributes: called(18) },
    code: OK,
    changes: ['vote@pg01=17:17:4345298984:down private'],
    files: { 'tmp/promise': '17' },
  },
  {
    does: 'notify post-demote pg02 pg01',
    when: 'it was the primary, and did not end in order',
    given: { ...died, control: ['in production', '1/3000028'], attributes: called(18) },
    code: OK,
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has voted',
    given: {
      ...standby,
      promise: 18,
      run: { vote: '18:10:1000' },
      attributes: { ...called(18), 'vote@pg01': '18:10:1000' },
    },
    code: OK,
    changes: ['vote@pg01=18:10:1000 private'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has voted, and the attribute daemon has forgotten it',
    given: { ...standby, promise: 18, run: { vote: '18:10:1000' }, attributes: called(18) },
    code: OK,
    changes: ['vote@pg01=18:10:1000 private'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it has promised more',
    given: { ...standby, promise: 19, attributes: called(18) },
    code: OK,
    files: { 'tmp/promise': '19' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'the candidate never calls',
    given: standby,
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'the candidate calls late',
    given: { ...standby, ...patient, twist: later('attrs/Postgresql-call@pg02', 18) },
    code: OK,
    changes: [...voted('18:10:1000'), 'HUP'],
  },
  {
    does: 'notify pre-promote pg02',
    when: 'only a third one calls',
    given: { ...standby, attributes: { 'call@pg03': '19' } },
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it is stopped',
    given: { ...died, attributes: called(18) },
    code: OK,
  },
  { does: 'notify pre-promote', when: 'nobody is to be primary', given: standby, code: OK },
  {
    does: 'notify pre-promote pg02',
    when: 'it cannot tell what it holds: it has promised, and its vote does not count',
    given: { ...standby, position: '10:1000:f:t', attributes: called(18) },
    code: OK,
    changes: voted('18:0:0'),
    files: { 'tmp/promise': '18', 'tmp/replication.conf': conf(''), 'run/pgcm-Postgresql/vote': false },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it is a primary that everybody has left',
    given: { ...primary, position: '', attributes: called(18) },
    code: OK,
    changes: voted('18:0:0'),
  },
  {
    does: 'notify pre-promote pg02',
    when: 'its promise cannot be kept, the disk is full: it may be cut off, but it does not vote',
    given: { ...standby, attributes: called(18), broken: { disk: '' } },
    code: OK,
    changes: ['HUP', 'position'],
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify pre-promote pg02',
    when: 'it was told to promote before',
    given: { ...standby, attributes: called(18), run: { promoting: 'postmaster' } },
    code: OK,
    files: { 'tmp/promise': '10' },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it follows the new primary already',
    given: {
      ...standby,
      promise: 18,
      promoted: { pg02: 18 },
      run: { state: 'standby streaming 10' },
      attributes: PG02_IS_PRIMARY,
    },
    code: OK,
    changes: ['HUP'],
    files: { 'run/pgcm-Postgresql/state': false, 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it attached itself when it voted',
    given: {
      ...standby,
      promise: 18,
      promoted: { pg02: 18 },
      run: { 'attached.pg02': 18 },
      attributes: PG02_IS_PRIMARY,
    },
    code: OK,
  },
  {
    does: 'notify post-promote pg02',
    when: 'it attached itself for an earlier vote, and has promised another epoch since',
    given: {
      ...standby,
      promise: 18,
      promoted: { pg02: 18 },
      run: { 'attached.pg02': 10 },
      attributes: PG02_IS_PRIMARY,
    },
    code: OK,
    changes: ['HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'the old primary has not said yet that it is none any more',
    given: {
      ...alone,
      promise: 18,
      promoted: { pg02: 18, pg03: 11 },
      attributes: { ...PG02_IS_PRIMARY, 'status@pg03': 'PRI' },
    },
    code: OK,
    changes: ['HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it had taken over, and Pacemaker has chosen another: the next monitor says what it is',
    given: { ...primary, run: { electing: '99999999999' }, attributes: PG02_IS_PRIMARY },
    code: OK,
    files: { 'run/pgcm-Postgresql/electing': false },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it did not vote',
    given: { ...alone, promoted: { pg02: 18 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    changes: ['HUP'],
    files: { 'tmp/replication.conf': to(2) },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it has promised more',
    given: { ...alone, promise: 19, promoted: { pg02: 18 }, attributes: PG02_IS_PRIMARY },
    code: OK,
    files: { 'tmp/replication.conf': false },
  },
  {
    does: 'notify post-promote pg02',
    when: 'it was demoted and is stopped: it leaves the CPU to the new primary',
    given: died,
    code: OK,
    files: { 'run/pgcm-Postgresql/demoted': '' },
  },
  {
    does: 'notify post-promote pg01',
    when: 'it is the new primary: what it has to say can wait',
    given: { ...primary, run: { promoted: '1 00000000000003E8' } },
    code: OK,
  },
  {
    does: 'notify post-start pg01',
    when: 'another one was started: the next monitor publishes again',
    given: { ...primary, run: { state: 'primary ' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/state': false },
  },
  {
    does: 'notify post-stop',
    when: 'another one was stopped: the next monitor publishes again',
    given: { ...primary, run: { state: 'primary ' } },
    code: OK,
    files: { 'run/pgcm-Postgresql/state': false },
  },
  { does: 'notify pre-start', when: 'another one is to be started', given: primary, code: OK },
]

/** Epochs: of the node's own class (its place modulo 8), above all that this node knows. */
export const epochs: Row[] = (
  [
    ['pg01', 9, {}],
    ['pg02', 2, {}],
    ['pg03', 3, {}],
    ['pg03', 11, { history: [3] }],
    ['pg02', 18, { history: [10] }],
    ['pg01', 17, { history: [16] }],
    ['pg01', 25, { history: [17] }],
    ['pg02', 18, { history: [10], placeholders: [11, 12] }],
    ['pg03', 35, { history: [10], promise: 27 }],
    ['pg03', 35, { history: [10], lock: 34 }],
    ['pg01', 33, { history: [10], attributes: { 'call@pg02': '26' } }],
    ['pg03', 43, { history: [10], attributes: { 'vote@pg01': '36:10:1000', 'vote@pg02': '13:0:0' } }],
  ] as [string, number, Given][]
).map(([node, epoch, given]) => ({
  does: `notify pre-demote ${node} pg09`,
  when: `it knows ${JSON.stringify(given)}: epoch ${epoch}`,
  given: {
    ...running,
    ...streams,
    ...given,
    node,
    attributes: { ...given.attributes, 'status@pg09': 'PRI' },
  },
  code: OK,
  changes: [`call@${node}=${epoch} private`, ...waits],
}))
