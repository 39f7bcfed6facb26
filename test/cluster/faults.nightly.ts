// deadline: 2700 s
/** One fault each, under load: no acknowledged row is missing, and never do two primaries write. */
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { until } from '../../lib/wait.ts'
import { complaints, crm, cure, healthy, primary, primaryWithin, standby, turnOn } from './cluster.ts'
import { killAgentBefore, muzzleFencing, nothingRuns, walDisk } from './faults.ts'
import {
  bouncers,
  failing,
  inside,
  isOn,
  killPostmaster,
  nodes,
  playground,
  psql,
  signalPostgres,
} from './machines.ts'
import { note, scenario, underLoad } from './scenario.ts'

const ms = (gap: number) => `${Math.round(gap)} ms`

scenario('the primary hangs (SIGSTOP): a standby takes over within 30 s', 150, async () => {
  const report = await underLoad(async (load) => {
    const old = (await primary()) as string
    await signalPostgres(old, 'STOP')
    const since = load.now()
    await primaryWithin(30_000, old)
    assert.ok(await load.commitAfter(10_000))
    note(`primary hangs: gap ${ms(load.figures(since - 100).longestGapMs)}`)
    await cure()
  })
  note(`primary hangs: ${report.errors} errors, 0 missing`)
})

scenario('the sync standby dies: commits go on through the other within 3 s', 120, async () => {
  await underLoad(async (load) => {
    await killPostmaster(await standby('HS:sync'))
    const since = load.now()
    assert.ok(await load.commitAfter(3_000, since + 50))
    note(`sync standby dies: gap ${ms(load.figures(since - 100).longestGapMs)}`)
  })
  await cure()
})

scenario('the sync standby hangs (SIGSTOP): commits go on through the other within 3 s', 120, async () => {
  await underLoad(async (load) => {
    const sync = await standby('HS:sync')
    await signalPostgres(sync, 'STOP')
    const since = load.now()
    // A commit is only sure to be held up once the walreceiver stood still: ask for a later one.
    assert.ok(await load.commitAfter(3_500, since + 500))
    note(`sync standby hangs: gap ${ms(load.figures(since - 100).longestGapMs)}`)
    await signalPostgres(sync, 'CONT')
  })
  await cure()
})

for (const [what, signal] of [
  ['ends', 'TERM'],
  ['is killed', 'KILL'],
  ['hangs', 'STOP'],
] as const) {
  scenario(
    `the WAL receiver of the sync standby ${what}: commits go on through the other within 3 s`,
    120,
    async () => {
      await underLoad(async (load) => {
        const sync = await standby('HS:sync')
        await inside(sync, ['pkill', `-${signal}`, '-f', '^postgres: .*walreceiver'])
        const since = load.now()
        assert.ok(await load.commitAfter(3_500, since + 500))
        note(`WAL receiver ${what}: gap ${ms(load.figures(since - 100).longestGapMs)}`)
        if (signal === 'STOP') await signalPostgres(sync, 'CONT')
      })
      await cure()
    },
  )
}

scenario('the machine of the sync standby loses power: commits go on within 3 s', 150, async () => {
  const sync = await standby('HS:sync')
  await underLoad(
    async (load) => {
      await playground('kill', [sync])
      const since = load.now()
      assert.ok(await load.commitAfter(3_500, since + 500))
      note(`sync standby loses power: gap ${ms(load.figures(since - 1_000).longestGapMs)}`)
    },
    { through: bouncers.filter((machine) => machine !== sync) },
  )
  await cure()
})

/** Who comes back, in this order, once all have lost power. Until a primary is there a person does nothing. */
const RETURNS = [
  ['primary', 'sync', 'potential'],
  ['primary', 'potential', 'sync'],
  ['sync', 'primary', 'potential'],
  ['sync', 'potential', 'primary'],
  ['potential', 'primary', 'sync'],
  ['potential', 'sync', 'primary'],
  ['primary', 'sync'],
  ['sync', 'potential'],
  ['potential', 'primary'],
] as const

for (const order of RETURNS) {
  const all = order.length === nodes.length
  scenario(
    `all three lose power; ${order.join(', then ')} ${all ? 'come' : 'alone come'} back: primary within 90 s`,
    240,
    async () => {
      const named = {
        primary: (await primary()) as string,
        sync: await standby('HS:sync'),
        potential: await standby('HS:potential'),
      }
      await underLoad(
        async (load) => {
          assert.ok(await load.commitAfter(2_000))
          await Promise.all(nodes.map((node) => playground('kill', [node])))
          const since = load.now()
          for (const role of order) await turnOn(named[role])
          await primaryWithin(90_000)
          assert.ok(await load.commitAfter(10_000))
          note(`power lost, ${order.join(', ')}: writes after ${ms(load.figures(since - 100).longestGapMs)}`)
        },
        { through: ['app01'], transactionTimeoutMs: 5_000 },
      )
      if (!all) {
        await cure()
        return
      }
      await until(
        'it is healthy again, with nobody removing anything',
        { timeoutMs: 90_000, everyMs: 500 },
        async () => (await complaints()).every((complaint) => complaint.startsWith('failed action')),
      )
    },
  )
}

scenario('the primary is cut off from everybody: a standby takes over within 20 s', 180, async () => {
  const old = (await primary()) as string
  await underLoad(
    async (load) => {
      await playground('partition', [old])
      const since = load.now()
      await primaryWithin(20_000, old)
      assert.ok(await load.commitAfter(10_000))
      note(`primary cut off: gap ${ms(load.figures(since - 1_000).longestGapMs)}`)
    },
    { through: bouncers.filter((machine) => machine !== old) },
  )
  await cure()
})

scenario('corosync alone is cut, PostgreSQL is not, and fencing fails: never two writers', 180, async () => {
  const old = (await primary()) as string
  const restore = await muzzleFencing()
  try {
    const report = await underLoad(async (load) => {
      await playground('partition', [old, '--only', '5405/udp'])
      await until(
        'somebody else is primary, or the deadline has passed',
        { timeoutMs: 30_000, everyMs: 500 },
        async () => {
          const name = await primary()
          return name && name !== old
        },
      ).catch(() => {})
      await playground('heal')
      await restore()
      await cure()
      assert.ok(await load.commitAfter(10_000))
    })
    note(
      `corosync cut, fencing fails: ${report.errors} errors, 0 missing, timelines ${report.timelines.join(' ')}`,
    )
  } finally {
    await restore()
  }
})

scenario('the primary is cut off from the sync standby only: commits go on within 15 s', 180, async () => {
  const old = (await primary()) as string
  await underLoad(async (load) => {
    await playground('partition', [old, '--from', await standby('HS:sync')])
    const since = load.now()
    assert.ok(await load.commitAfter(15_000, since + 1_000))
    note(`cut off from the sync standby: gap ${ms(load.figures(since - 100).longestGapMs)}`)
    await playground('heal')
    await cure()
  })
})

scenario(
  'the potential standby is ahead of the sync standby when the primary dies: nothing is lost',
  150,
  async () => {
    await underLoad(async (load) => {
      const old = (await primary()) as string
      const sync = await standby('HS:sync')
      await inside(sync, ['pkill', '-STOP', '-f', 'walreceiver'])
      await until('the potential standby is ahead', { timeoutMs: 2_000, everyMs: 20 }, async () => {
        const lags = await psql(
          old,
          `select count(*) from pg_stat_replication a, pg_stat_replication b
        where a.application_name = '${sync}' and b.application_name <> '${sync}' and b.flush_lsn > a.flush_lsn`,
        )
        return lags === '1'
      })
      await killPostmaster(old)
      await inside(sync, ['pkill', '-CONT', '-f', 'walreceiver'])
      await primaryWithin(30_000, old)
      assert.ok(await load.commitAfter(10_000))
      await cure()
    })
  },
)

/** The steps of a promotion, by the line of the agent's that does the next thing. */
const STEPS = {
  'before the votes are counted': '\tif open_session && within',
  'when the votes are counted': '\t\tnobody_ahead && become_primary',
  'when it is proven': '\twrite_file "$tmpdir/PGSQL.lock"',
  'when its lock file is written': '\t[ "$(promise)" -eq "$epoch" ] && [ "$epoch" -gt',
  'right before PostgreSQL is told': '\tanswer=$(sql',
  'when PostgreSQL is primary': '\t[ "$answer" = ',
  'before the daemon is told': '\twake_supervise',
  'before Pacemaker is told': '\trm -f "$run/promoting"',
}
const promotionDies = async (line: string, how?: string) => {
  await underLoad(async (load) => {
    const old = (await primary()) as string
    const others = nodes.filter((node) => node !== old)
    const { hits, restore } = await killAgentBefore(others, line, how)
    try {
      const since = load.now()
      await killPostmaster(old)
      await until('a promotion was killed', { timeoutMs: 20_000 }, async () => (await hits()).length > 0)
      await primaryWithin(60_000)
      assert.ok(await load.commitAfter(10_000))
      const gap = ms(load.figures(since - 100).longestGapMs)
      note(`promotion killed on ${(await hits()).join(' and ')}: gap ${gap}`)
    } finally {
      await restore()
    }
    await cure()
  })
}
for (const [step, line] of Object.entries(STEPS)) {
  scenario(`a promotion is killed ${step}: somebody is promoted within 60 s`, 180, () => promotionDies(line))
}
scenario('PostgreSQL dies with its promotion before anybody follows: nothing is lost', 180, () =>
  promotionDies(STEPS['when PostgreSQL is primary'], 'kill -9 "$postmaster" $$'),
)

/** The same of a planned move, in which the candidate takes over before Pacemaker promotes it. */
for (const [step, line] of Object.entries({
  'when it is proven': '\tset_deadline 900 && echo',
  'right before PostgreSQL is told': STEPS['right before PostgreSQL is told'],
  'when PostgreSQL is primary': STEPS['when PostgreSQL is primary'],
  'before Pacemaker is told': STEPS['before Pacemaker is told'],
})) {
  scenario(`the candidate of a planned move is killed ${step}: somebody is promoted`, 180, async () => {
    await underLoad(async (load) => {
      const since = load.now()
      const to = await standby('HS:sync')
      const { hits, restore } = await killAgentBefore([to], line, 'exec false') // $$ is not what takes over
      try {
        const { code } = await inside('app01', ['pgcm-failover', '--yes'], {
          okCodes: [0, 1],
          timeoutMs: 60_000,
        })
        assert.equal(await hits(), [to])
        const name = await primaryWithin(60_000)
        assert.ok(await load.commitAfter(10_000))
        note(`killed ${step}: exit ${code}, ${name} is primary, gap ${ms(load.figures(since).longestGapMs)}`)
      } finally {
        await restore()
      }
      await cure()
    })
  })
}

/** The same, when it has taken over, and Pacemaker, held by the old primary's agent, has promoted nobody yet. */
for (const [what, who, fault] of [
  ['the new primary loses power', 'to', 'kill'],
  ['the new primary is cut off from everybody', 'to', 'partition'],
  ['the old primary loses power', 'old', 'kill'],
  ['the other standby loses power', 'other', 'kill'],
  ['the DC loses power', 'dc', 'kill'],
] as const) {
  scenario(`${what} between take-over and promotion: clients go on, nothing is lost`, 240, async () => {
    const [old, to, other] = [
      (await primary()) as string,
      await standby('HS:sync'),
      await standby('HS:potential'),
    ]
    const { stdout: dc } = await inside(old, ['crmadmin', '-qD'])
    const machine = { old, to, other, dc: dc.trim() }[who]
    const { restore } = await killAgentBefore([old], '\trm -f "$run/holding" "$hold.go"', 'sleep 10')
    try {
      await underLoad(
        async (load) => {
          const run = inside('app01', ['pgcm-failover', '--yes'], { okCodes: [0, 1, 3], timeoutMs: 90_000 })
          const promoted = async () => (await psql(to, 'select pg_is_in_recovery()')) === 'f'
          await until(`${to} has taken over`, { timeoutMs: 20_000 }, promoted)
          assert.match((await crm(to)).nodes[old]?.role ?? '', /Promoted|Master/)
          await playground(fault, [machine])
          const since = load.now()
          // Without the other standby a commit waits until the old primary has come back, which is for a person.
          if (machine === other) await turnOn(machine)
          assert.ok(await load.commitAfter(60_000, since + 500))
          const { code } = await run
          const gap = ms(load.figures(since - 1_000).longestGapMs)
          note(
            `${what} (${machine}, DC ${dc.trim()}): exit ${code}, gap ${gap}, ${await primaryWithin(30_000)} is primary`,
          )
        },
        { through: bouncers.filter((name) => name !== machine) },
      )
      await cure()
    } finally {
      await turnOn(old)
      await restore()
    }
  })
}

scenario(
  'ALTER SYSTEM overrules synchronous_standby_names on a standby: it is not promoted',
  240,
  async () => {
    const sync = await standby('HS:sync')
    const alter = async (how: string) => {
      await psql(sync, `alter system ${how}`)
      await psql(sync, 'select pg_reload_conf()')
    }
    await underLoad(async (load) => {
      const old = (await primary()) as string
      await alter(`set synchronous_standby_names = ''`)
      try {
        const since = load.now()
        await killPostmaster(old)
        const name = await primaryWithin(90_000, old)
        assert.is.not(name, sync)
        assert.ok(await load.commitAfter(10_000))
        note(
          `synchronous_standby_names overruled: ${name}, gap ${ms(load.figures(since - 100).longestGapMs)}`,
        )
      } finally {
        await until('it can be reset', { timeoutMs: 60_000, everyMs: 500 }, () =>
          alter('reset synchronous_standby_names').then(
            () => true,
            () => false,
          ),
        )
      }
      await cure()
    })
  },
)

scenario('the node that was promoted dies before long, and returns: nothing is lost', 240, async () => {
  await underLoad(async (load) => {
    const first = (await primary()) as string
    await killPostmaster(first)
    const second = await primaryWithin(20_000, first)
    await killPostmaster(second)
    await inside(first, ['pgcm-rejoin', '--yes'], { timeoutMs: 60_000, okCodes: [0, 1, 2] })
    await primaryWithin(60_000)
    await cure()
    assert.ok(await load.commitAfter(10_000))
  })
})

scenario('a standby flaps three times in a minute: commits never wait longer than 3 s', 180, async () => {
  const flapping = await standby('HS:sync')
  await underLoad(
    async (load) => {
      const since = load.now()
      for (let round = 0; round < 3; round++) {
        await playground('kill', [flapping])
        await until(`${flapping} streams again`, { timeoutMs: 60_000, everyMs: 250 }, async () => {
          await turnOn(flapping)
          const status = psql(flapping, 'select status from pg_stat_wal_receiver')
          return (await status.catch(() => '')) === 'streaming'
        })
      }
      const { longestGapMs } = load.figures(since)
      note(`flapping standby: longest gap ${ms(longestGapMs)}`)
      assert.ok(longestGapMs < 3_500, `a commit waited ${ms(longestGapMs)}`)
    },
    { through: bouncers.filter((machine) => machine !== flapping) },
  )
  await cure()
})

scenario('an old primary with data that nobody else has stays out, and says why', 180, async () => {
  const old = (await primary()) as string
  await playground('partition', [old])
  // Not acknowledged to any client of ours: written by hand, as if by a session that gave up waiting.
  const write =
    'set synchronous_commit = local; create table only_here (x int); insert into only_here values (1)'
  await psql(old, write, 'app')
  await killPostmaster(old).catch(() => {}) // it may have been fenced by now
  const name = await primaryWithin(20_000, old)
  await playground('heal')
  const said = await until('crm_mon names the cure', { timeoutMs: 60_000, everyMs: 500 }, async () => {
    const { stdout } = await inside(name, ['crm_mon', '-Afr1'])
    return stdout.includes('pgcm-rejoin') ? stdout : undefined
  })
  assert.match(said, new RegExp(`pgcm-rejoin on ${old}`))
  assert.is(await psql(name, "select to_regclass('only_here') is null", 'app'), 't')
  await cure()
})

/** Why PostgreSQL does not run on a node, as Pacemaker shows it: asked on another. */
const reasonFor = (node: string, asked: string): Promise<string> =>
  until(`crm_mon says why ${node} is out`, { timeoutMs: 30_000, everyMs: 250 }, async () => {
    const { failures, nodes } = await crm(asked)
    return nodes[node]?.role ? undefined : failures.find((failure) => failure.startsWith(`${node}: `))
  })

for (const [how, command] of [
  ['is moved away', 'cd /var/lib/postgresql/*/ && mv main main.lost'],
  // Once more: a server that still writes makes new files meanwhile.
  ['is removed', 'cd /var/lib/postgresql/*/ && { rm -rf main || rm -rf main; } 2>/dev/null'],
] as const) {
  scenario(`the primary's data directory ${how}: a standby takes over, nothing is lost`, 240, async () => {
    await underLoad(async (load) => {
      const old = (await primary()) as string
      await inside(old, command)
      const since = load.now()
      const name = await primaryWithin(60_000, old)
      assert.ok(isOn(old) ? await nothingRuns(old) : true, 'it is called stopped, and some of it runs')
      assert.ok(await load.commitAfter(10_000))
      const why = await reasonFor(old, name)
      note(`data directory ${how}: gap ${ms(load.figures(since - 100).longestGapMs)}; ${why}`)
      assert.match(why, /pgcm-rejoin|data directory/)
      await inside(old, ['pgcm-rejoin', '--yes'], { timeoutMs: 120_000 })
      await inside(old, 'rm -rf /var/lib/postgresql/*/main.lost')
      await healthy(60_000)
    })
  })
}

scenario("the disk of the primary's WAL is full: a standby takes over, nothing is lost", 300, async () => {
  const full = await standby('HS:sync')
  const complaintsOfSpace = async () => {
    const command = 'grep -c "No space left on device" /var/log/postgresql/postgresql-*-main.log'
    return Number((await inside(full, command, { okCodes: [0, 1] })).stdout)
  }
  const disk = await walDisk(full)
  try {
    await inside('app01', ['pgcm-failover', '--yes', '--to', full, '--rejoin'], { timeoutMs: 60_000 })
    await healthy(30_000)
    await underLoad(async (load) => {
      const before = await complaintsOfSpace()
      await disk.fill()
      const since = load.now()
      // The file that is being written was allocated before: it is full only when the next one is to be made.
      const other = await until('somebody else is primary', { timeoutMs: 90_000, everyMs: 250 }, async () => {
        await psql(full, 'select pg_switch_wal()').catch(() => {})
        const name = await primary()
        return name === full ? undefined : name
      })
      assert.ok(await load.commitAfter(10_000))
      const reason = await reasonFor(full, other)
      note(`disk full: gap ${ms(load.figures(since).longestGapMs)}; ${reason}`)
      assert.match(reason, /and the disk here is full: run pgcm-rejoin/)
      assert.ok((await complaintsOfSpace()) > before, 'the log of PostgreSQL says that the disk is full')
      const refused = await failing(inside(full, ['pgcm-rejoin', '--yes'], { timeoutMs: 120_000 }))
      assert.is(refused.code, 2, `${refused.stdout}${refused.stderr}`)
      // PostgreSQL may have removed a file of the WAL since, and what it held back when it died may have made it diverge.
      const needs =
        /(PostgreSQL needs about 32 MiB in .*pg_wal|pg_rewind needs about \d+ MiB in .*), and \d+ MiB are free/
      assert.match(refused.stderr, needs, refused.stderr)
      await disk.enlarge()
      await inside(full, ['pgcm-rejoin', '--yes'], { timeoutMs: 120_000 })
      await healthy(60_000)
    })
  } finally {
    await disk.enlarge()
    await cure()
    await disk.remove()
  }
})

test.run()
