/** Wrong parameters, and calls that make no sense. */
import { FAILED, MISCONFIGURED, NOT_INSTALLED, OK, primary, type Row, UNIMPLEMENTED } from './states.ts'

export const wrong: Row[] = [
  ...(
    [
      [
        'this node is not named',
        { node_list: 'pg02 pg03 pg04' },
        'does not name this node, pg01',
        MISCONFIGURED,
      ],
      ['no node is named', { node_list: ' ' }, 'does not name this node, pg01', MISCONFIGURED],
      [
        'too many nodes are named',
        { node_list: 'pg01 b c d e f g h' },
        'is not three to seven different nodes',
        MISCONFIGURED,
      ],
      ['too few nodes are named', { node_list: 'pg01 pg02' }, 'is not three to seven', MISCONFIGURED],
      [
        'a node is named twice',
        { node_list: 'pg01 pg02 pg01' },
        'is not three to seven different',
        MISCONFIGURED,
      ],
      ['sync_method is unknown', { sync_method: 'all' }, "sync_method is 'all': first or any", MISCONFIGURED],
      ['the port is no number', { pgport: 'postgres' }, 'pgport and vote_timeout are numbers', MISCONFIGURED],
      [
        'the time-out is no number',
        { vote_timeout: '3s' },
        'pgport and vote_timeout are numbers',
        MISCONFIGURED,
      ],
      ['there is no PostgreSQL', { bindir: '/nowhere' }, 'no PostgreSQL in /nowhere', NOT_INSTALLED],
      ['there is no data directory', { pgdata: '/nowhere' }, 'no data directory at /nowhere', NOT_INSTALLED],
      ['there is no configuration', { config: '/nowhere' }, '/nowhere', NOT_INSTALLED],
    ] as [string, Record<string, string>, string, number][]
  ).flatMap(([when, parameters, reason, code]) =>
    ['validate-all', 'start'].map((does) => ({ does, when, given: { parameters }, code, reason })),
  ),
  {
    does: 'validate-all',
    when: 'the configuration does not include our file',
    given: { twist: (world) => world.write('postgresql.conf', "include_if_exists = 'other.conf'") },
    code: NOT_INSTALLED,
    reason: 'tmp/replication.conf',
  },
  { does: 'validate-all', when: 'all is well', given: {}, code: OK },
  { does: 'validate-all', when: 'the cluster layer tells the name', given: {}, code: OK },
  {
    does: 'monitor',
    when: 'nobody tells the name of this node',
    given: { ...primary, broken: { corosync: '' } },
    code: FAILED,
    reason: "crm_node does not tell this node's name",
  },
  { does: 'migrate_to', when: 'it is asked for what it has not', given: {}, code: UNIMPLEMENTED },
]
