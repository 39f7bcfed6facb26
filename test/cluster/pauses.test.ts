// deadline: 400 s
/** A pause always ends: at once where somebody is left to end it, else at its expiry; and no client gets an error. */
import pg from 'pg'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import type { Load } from '../../bench/load.ts'
import { until } from '../../lib/wait.ts'
import { bouncer, healthy, leftovers, primary, standby } from './cluster.ts'
import { address, bouncers, failing, inside, nodes, secret } from './machines.ts'
import { failover, moved, rejoin } from './moves.ts'
import { note, scenario, underLoad } from './scenario.ts'

/** The default of pause-expiry. */
const EXPIRY_MS = 10_000
/** RESUME, and the first commit of a client that waited. */
const SLACK_MS = 2_000

/** kill -9 of a pgcm-failover on app01 as soon as it reports a step as done. */
async function killedAfter(step: string): Promise<void> {
  // In the machine, where it takes a millisecond or two: the next step is not much longer than a question from here.
  const script = `
    dir=$(mktemp -d) && mkfifo "$dir/events"
    pgcm-failover --yes --json >"$dir/events" &
    while read -r line; do
      echo "$line"
      case $line in *'"event":"done","step":"${step}"'*) kill -KILL $! ;; esac
    done <"$dir/events"
    rm -r "$dir"
    wait $!`
  await inside('app01', script, { timeoutMs: 60_000, okCodes: [128 + 9] })
}

/** Whether PgBouncers hold their clients, as one of them sees it: before 1.19 none of their own answers shows a PAUSE. */
async function allHold(machines: string[]): Promise<boolean> {
  const answers = machines.map((machine) =>
    bouncer(machine, 'select 1', 'app', 500).then(
      () => false,
      (error) => /timeout/.test(error.message),
    ),
  )
  return (await Promise.all(answers)).every(Boolean)
}

/** All PgBouncers hold their clients now, and each lets them go by itself. Returns for how long they were held, in ms. */
async function heldUntilExpiry(load: Load): Promise<number> {
  const since = load.now()
  assert.ok(await allHold(bouncers), 'all PgBouncers hold their clients')
  const left = since + EXPIRY_MS + SLACK_MS - load.now()
  for (const done of bouncers.map((path) => ({ path, commits: load.commitAfter(left, since, path) })))
    assert.ok(await done.commits, `clients of ${done.path} go on within ${EXPIRY_MS + SLACK_MS} ms`)
  return Math.round(load.figures(since).longestGapMs)
}

/** The epoch in which that node was promoted last. */
const epochOf = async (node: string): Promise<string> =>
  (await inside(node, ['attrd_updater', '-Q', '-n', 'Postgresql-epoch', '-N', node])).stdout.trim()

/**
 * What a killed run has left is found by the next one, which undoes it and then does its own work. `lasting`: it is more than a lock,
 * whose lease may have run out by now.
 */
async function nextOneSucceeds(old: string, lasting: boolean): Promise<void> {
  if ((await primary()) !== old) await rejoin(old)
  const sync = await standby('HS:sync')
  const { stdout } = await failover('--rejoin')
  if (lasting) assert.match(stdout, 'a failover was killed')
  await moved(sync)
  await healthy(30_000)
}

for (const [step, where] of [
  ['pause', 'before it moves anything'],
  ['migrate', 'while the primary moves'],
] as const) {
  scenario(
    `pgcm-failover is killed while clients are held, ${where}: they go on, and the next one cleans up`,
    90,
    async () => {
      const report = await underLoad(async (load) => {
        const old = (await primary()) as string
        await killedAfter(step)
        const heldMs = await heldUntilExpiry(load)
        const lasting = step === 'migrate' // a constraint
        if (lasting) assert.not.equal(await leftovers(), [], 'something is left for the next one')
        await nextOneSucceeds(old, lasting)
        note(`killed after ${step}: clients were held for ${heldMs} ms, 0 errors`)
      })
      assert.equal(report.errorKinds, {})
    },
  )
}

for (const [what, killed] of [
  ['', []],
  [', and so is the daemon that holds the demotion', ['pgcm-supervise']],
] as const) {
  scenario(
    `pgcm-failover is killed once the move is prepared${what}: nobody is demoted, and the next one succeeds`,
    90,
    async () => {
      const report = await underLoad(async (load) => {
        const old = (await primary()) as string
        const epoch = await epochOf(old)
        await killedAfter('prepare')
        for (const unit of killed) await inside(old, `systemctl kill -s KILL ${unit}`)
        await until('the move is called off', { timeoutMs: 20_000 }, async () => {
          const { stdout } = await inside(old, 'ls /run/pgcm-supervise')
          return !/hold/.test(stdout) && (await leftovers()).every((left) => left.startsWith('lock'))
        })
        assert.ok(await load.commitAfter(EXPIRY_MS + SLACK_MS), 'clients go on')
        assert.equal([await primary(), await epochOf(old)], [old, epoch])
        await nextOneSucceeds(old, false)
      })
      assert.equal(report.errorKinds, {})
    },
  )
}

scenario(
  'the daemons that hold the pauses are killed as well: they come back, and the pauses end',
  90,
  async () => {
    const daemons = [...nodes.map((node) => [node, 'pgcm-supervise']), ['app01', 'pgcm-proxy']] as const
    const restarts = ([machine, unit]: (typeof daemons)[number]) =>
      inside(machine as string, `systemctl show -P NRestarts ${unit}`).then(({ stdout }) => Number(stdout))
    const report = await underLoad(async (load) => {
      const old = (await primary()) as string
      const before = await Promise.all(daemons.map(restarts))
      await killedAfter('pause')
      await Promise.all(
        daemons.map(([machine, unit]) => inside(machine as string, `systemctl kill -s KILL ${unit}`)),
      )
      const heldMs = await heldUntilExpiry(load)
      assert.equal(
        await Promise.all(daemons.map(restarts)),
        before.map((count) => count + 1),
      )
      await nextOneSucceeds(old, false)
      note(`daemons killed too: clients were held for ${heldMs} ms, 0 errors`)
    })
    assert.equal(report.errorKinds, {})
  },
)

scenario(
  'Ctrl-C while a PgBouncer still waits: the others let their clients go at once, exit 1',
  60,
  async () => {
    const old = (await primary()) as string
    const stuck = new pg.Client({
      host: address('app01'),
      port: 6432,
      user: 'app',
      password: secret('app'),
      database: 'app',
    })
    await stuck.connect()
    try {
      await stuck.query('begin')
      const report = await underLoad(
        async (load) => {
          const ended = failing(failover('--pause-timeout', '8s'))
          await until('the others hold their clients', { timeoutMs: 20_000 }, () => allHold(nodes))
          const since = load.now()
          await inside('app01', ['pkill', '-INT', '-f', '/pgcm-failover --yes'])
          for (const path of nodes)
            assert.ok(await load.commitAfter(SLACK_MS, since, path), `clients of ${path} go on`)
          note(`Ctrl-C: clients went on after ${Math.round(load.figures(since).longestGapMs)} ms, 0 errors`)
          const { code, stdout, stderr } = await ended
          assert.is(code, 1, `${stdout}${stderr}`)
          assert.match(stderr, 'aborted by SIGINT')
        },
        { through: nodes },
      )
      assert.equal(report.errorKinds, {})
      assert.is((await stuck.query('commit')).command, 'COMMIT')
    } finally {
      await stuck.end()
    }
    await moved(old)
  },
)

test.run()
