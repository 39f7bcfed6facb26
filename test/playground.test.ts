import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { Refused } from '../lib/errors.ts'
import { log } from '../lib/log.ts'
import { scripts } from '../lib/options.ts'
import { dispatch, verbNames } from '../lib/playground.ts'
import { failureOf, hashOf, isHealthy, progressOf, statuses } from '../lib/playground-cluster.ts'
import { ports, rules } from '../lib/playground-cuts.ts'
import { fenceServer, type Sockets } from '../lib/playground-fence.ts'
import { type Host, judge, missing, needed, raiseLimits, restoreLimits } from '../lib/playground-host.ts'
import { imageDir, mirrors } from '../lib/playground-image.ts'
import * as layout from '../lib/playground-layout.ts'
import { lock } from '../lib/playground-lock.ts'
import { chooseSubnet, rangeOf, routes } from '../lib/playground-network.ts'
import { identify, isAlive, recall, remember } from '../lib/playground-process.ts'
import { follow } from '../lib/playground-progress.ts'
import { until, within } from '../lib/wait.ts'

const ground: layout.Playground = {
  name: 'pgcm',
  dir: '/var/lib/pgcm-playground/pgcm',
  subnet: '172.28.33.0/24',
  release: 'trixie',
  nodes: ['pg01', 'pg02', 'pg03', 'app01'],
  image: '/var/cache/pgcm-playground/trixie-1',
}

/** Expects `body` to refuse with this message, and to say how to cure it. */
function refuses(body: () => unknown, message: RegExp): void {
  try {
    body()
  } catch (error) {
    assert.instance(error, Refused)
    assert.match((error as Refused).message, message)
    assert.ok((error as Refused).hint, `no cure for: ${(error as Refused).message}`)
    return
  }
  assert.unreachable(`not refused: ${message}`)
}

/** A directory that is gone when `body` has ended. */
async function inDirectory(body: (dir: string) => unknown): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'playground-'))
  try {
    await body(dir)
  } finally {
    rmSync(dir, { recursive: true })
  }
}

test('the words of the command line: verb, node, options in any order, the rest of ssh untouched', () => {
  const parse = (...argv: string[]) => load('playground', argv, {})
  assert.equal(parse('up', '--app', '--release', 'bookworm').words, ['up'])
  assert.is(parse('up', '--app').config.app, true)
  assert.is(parse('up').sources.release, 'default')
  assert.is(parse('kill', 'pg02', '--name', 'play').config.name, 'play')
  const { words, config } = parse('--name', 'play', 'ssh', 'pg01', 'crm_mon', '-Afr1', '--name', 'x')
  assert.equal([words, config.name], [['ssh', 'pg01', 'crm_mon', '-Afr1', '--name', 'x'], 'play'])
  refuses(() => parse('up', '--relase', 'trixie'), /--relase/)
  assert.throws(() => parse('up', '--release', 'sid'), /sid/)
})

test('every verb is known, and no other', () => {
  const verbs = ['up', 'down', 'destroy', 'status', 'ssh', 'kill', 'start', 'partition', 'heal']
  assert.equal(verbNames, verbs)
  assert.equal(
    Object.keys(scripts.playground.verbs).map((words) => words.split(' ')[0]),
    verbs,
  )
  for (const verb of verbs) assert.equal(dispatch([verb]).rest, [])
  refuses(() => dispatch([]), /which verb/)
  refuses(() => dispatch(['boot']), /unknown verb boot/)
  assert.throws(() => dispatch(['kill', 'pg01', 'pg02']), /pg02/)
})

test('names and nodes that cannot be are refused', () => {
  for (const name of ['pgcm', 'a', 'play-2']) layout.checkName(name)
  for (const name of ['', 'Play', '../x', '2nd', 'far-too-long']) {
    refuses(() => layout.checkName(name), /cannot be a playground's name/)
  }
  assert.is(layout.nodeOf(ground, 'pg02'), 'pg02')
  refuses(() => layout.nodeOf(ground, 'pg04'), /there is no node pg04/)
  refuses(() => layout.nodeOf(ground, undefined), /which node/)
})

test('a node gets one address, in every file', () => {
  assert.is(layout.addressOf(ground, 'host'), '172.28.33.1')
  assert.is(layout.addressOf(ground, 'app01'), '172.28.33.21')
  const lines = layout.hostsFile(ground).trim().split('\n')
  assert.equal(lines.slice(2), [
    '172.28.33.11 pg01',
    '172.28.33.12 pg02',
    '172.28.33.13 pg03',
    '172.28.33.21 app01',
  ])
  assert.not.match(layout.hostsFile(ground), /127\.0\.1\.1/)
  assert.match(layout.networkFile(ground, 'pg03'), /^Address=172\.28\.33\.13\/24$/m)
})

test('the inventory has the groups, the key and the fence device', () => {
  const text = layout.inventory(ground)
  assert.match(text, /^postgres:\n {2}hosts:\n {4}pg01: \{ ansible_host: 172\.28\.33\.11 \}\n {4}pg02: /m)
  assert.match(text, /^app:\n {2}hosts:\n {4}app01: \{ ansible_host: 172\.28\.33\.21 \}$/m)
  assert.match(text, /ansible_ssh_private_key_file: \/var\/lib\/pgcm-playground\/pgcm\/ssh_key/)
  assert.match(text, /agent: fence_playground\n {8}params:\n {10}pcmk_host_list: pg01 pg02 pg03$/m)
  assert.match(layout.inventory({ ...ground, nodes: ['pg01', 'pg02', 'pg03'] }), /^app:\n {2}hosts: \{\}$/m)
})

test('the state is read back, and a directory of somebody else is refused', () =>
  inDirectory((base) => {
    const dir = join(base, 'pgcm')
    assert.is(layout.readState('pgcm', dir), undefined)
    mkdirSync(dir)
    assert.is(layout.readState('pgcm', dir), undefined)
    layout.writeState({ ...ground, dir })
    assert.equal(layout.readState('pgcm', dir), { ...ground, dir })
    mkdirSync(join(base, 'other'))
    writeFileSync(join(base, 'other', 'photos'), '')
    refuses(() => layout.readState('other', join(base, 'other')), /was not made by this script/)
    assert.equal(
      layout.allPlaygrounds(base).map(({ name }) => name),
      ['pgcm'],
    )
  }))

test('the default playground has a fixed subnet, others take the first free one', () => {
  assert.is(chooseSubnet('pgcm', '', ['192.0.2.2/24', '172.28.34.0/24']), '172.28.33.0/24')
  assert.is(chooseSubnet('play', '', []), '172.28.34.0/24')
  assert.is(chooseSubnet('play', '', ['172.28.34.0/24', '172.28.35.7/30', '10.0.0.1/8']), '172.28.36.0/24')
  assert.is(chooseSubnet('play', '10.9.8.0/24', ['172.16.0.0/12']), '10.9.8.0/24')
  refuses(() => chooseSubnet('pgcm', '', ['172.16.0.0/12']), /172\.28\.33\.0\/24 is in use/)
  refuses(() => chooseSubnet('play', '10.9.8.0/24', ['10.9.0.0/16']), /10\.9\.8\.0\/24 is in use/)
  for (const wrong of ['172.28.40.1/24', '172.28.40.0/16', '8.8.8.0/24', '10.0.300.0/24', 'x']) {
    refuses(() => chooseSubnet('play', wrong, []), /is not a private \/24/)
  }
})

test('networks are read from routes and compared as ranges', () => {
  assert.equal(rangeOf('10.0.0.5/30'), [167772164, 167772167])
  const text = [
    'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT',
    'eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0',
    'eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0',
    'pgcm-play\t00221CAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0',
  ].join('\n')
  assert.equal(routes(text, 'pgcm-play'), ['192.0.2.0/24'])
})

test('a machine that cannot carry the playground is refused, with the cure', () => {
  const fit: Host = { uid: 0, os: 'debian', apt: true, freeMemoryMiB: 8000, freeDiskMiB: 20_000 }
  judge(fit, 4, 4, false)
  judge({ ...fit, freeMemoryMiB: 100, freeDiskMiB: 10 }, 0, 0, true) // everything runs already
  refuses(() => judge({ ...fit, uid: 1000 }, 3, 3, false), /only root/)
  refuses(() => judge({ ...fit, os: 'fedora' }, 3, 3, false), /fedora/)
  refuses(() => judge({ ...fit, apt: false }, 3, 3, false), /apt/)
  refuses(() => judge({ ...fit, freeMemoryMiB: 900 }, 3, 3, false), /need 2150 MiB of memory, and 900 MiB/)
  refuses(() => judge({ ...fit, freeDiskMiB: 1000 }, 3, 3, false), /MiB of disk, and 1000 MiB are free/)
})

test('only what is missing is installed', () => {
  assert.equal(
    missing(() => true),
    [],
  )
  assert.equal(
    missing((command) => command !== 'systemd-nspawn'),
    ['systemd-container'],
  )
  assert.equal(
    missing((command) => !command.startsWith('ssh')),
    ['openssh-client'],
  )
  assert.equal(missing(() => false).sort(), [...new Set(Object.values(needed))].sort())
})

test('a limit that is too low is raised, and put back', () =>
  inDirectory((dir) => {
    const [file, before] = [join(dir, 'limit'), join(dir, 'before')]
    const limit = () => readFileSync(file, 'utf8')
    writeFileSync(file, '128\n')
    raiseLimits(file, before)
    raiseLimits(file, before)
    assert.is(limit(), '1024')
    restoreLimits(file, before)
    restoreLimits(file, before)
    assert.is(limit(), '128')
    writeFileSync(file, '8192\n')
    raiseLimits(file, before)
    restoreLimits(file, before)
    assert.is(limit(), '8192\n')
  }))

test('the mirrors are those of the host, for the release wanted', () => {
  const targets = [
    'bookworm main http://mirror.example/debian/',
    'bookworm contrib http://mirror.example/debian/',
    'bookworm-updates main http://mirror.example/debian/',
    'bookworm-security main http://mirror.example/security/',
    'nodistro main https://node.example/',
    'bookworm stable https://docker.example/',
  ]
  assert.equal(mirrors(targets.join('\n'), 'bookworm', 'trixie'), [
    'deb http://mirror.example/debian/ trixie main',
    'deb http://mirror.example/debian/ trixie-updates main',
    'deb http://mirror.example/security/ trixie-security main',
  ])
  refuses(() => mirrors('', 'bookworm', 'trixie'), /name no Debian mirror/)
  assert.match(imageDir('trixie', '/c'), /^\/c\/trixie-[0-9a-f]{12}$/)
})

test('a cut works both ways, from all or one, on all ports or some', () => {
  const fresh = 'table bridge pgcm-pgcm\ndelete table bridge pgcm-pgcm\n'
  assert.is(rules(ground, []), fresh)
  const lines = (text: string) =>
    text
      .split('\n')
      .filter((line) => line.endsWith(' drop'))
      .map((line) => line.trim())
  assert.equal(lines(rules(ground, [{ node: 'pg01' }])), [
    'ip saddr 172.28.33.11 ip daddr { 172.28.33.12, 172.28.33.13, 172.28.33.21 } drop',
    'ip saddr { 172.28.33.12, 172.28.33.13, 172.28.33.21 } ip daddr 172.28.33.11 drop',
  ])
  assert.equal(lines(rules(ground, [{ node: 'pg01', from: 'pg02', only: ports('5405/udp') }])), [
    'ip saddr 172.28.33.11 ip daddr { 172.28.33.12 } udp sport 5405 drop',
    'ip saddr 172.28.33.11 ip daddr { 172.28.33.12 } udp dport 5405 drop',
    'ip saddr { 172.28.33.12 } ip daddr 172.28.33.11 udp sport 5405 drop',
    'ip saddr { 172.28.33.12 } ip daddr 172.28.33.11 udp dport 5405 drop',
  ])
  assert.equal(ports('5405/udp,2379/tcp'), ['5405/udp', '2379/tcp'])
  for (const wrong of ['5405', 'udp', '99999/udp', '5432/sctp', '1/tcp,'])
    refuses(() => ports(wrong), /is not a port/)
})

/** Machines that are on or off in memory only. */
function fakeMachines(): { sockets: Sockets; log: string[]; power: Map<string, 'on' | 'off' | 'unplugged'> } {
  const power = new Map<string, 'on' | 'off' | 'unplugged'>([
    ['pg01', 'on'],
    ['pg02', 'on'],
  ])
  const said: string[] = []
  const set = (verb: 'on' | 'off') => async (name: string) => {
    said.push(`${verb} ${name}`)
    if (power.get(name) !== 'unplugged') power.set(name, verb)
  }
  const sockets: Sockets = {
    names: () => [...power.keys()],
    power: (name) => power.get(name) ?? 'off',
    off: set('off'),
    on: set('on'),
  }
  return { sockets, log: said, power }
}

function ask(socketPath: string, method: string, path: string): Promise<[number | undefined, string]> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, method, path }, (response) => {
      let body = ''
      response.on('data', (data) => {
        body += data
      })
      response.on('end', () => resolve([response.statusCode, body.trim()]))
    })
    call.on('error', reject).end()
  })
}

test('the fence device switches machines, knows no others, and respects a pulled plug', () =>
  inDirectory(async (dir) => {
    log.setLevel('error')
    const { sockets, log: said, power } = fakeMachines()
    const server = fenceServer(sockets, 5)
    const socket = join(dir, 'fence.sock')
    await new Promise<void>((resolve) => server.listen(socket, resolve))
    const asked: [string, string, [number, string]][] = [
      ['GET', '/list', [200, 'pg01\npg02']],
      ['GET', '/status/pg02', [200, 'on']],
      ['POST', '/off/pg02', [200, 'off']],
      ['GET', '/status/pg02', [200, 'off']],
      ['POST', '/on/pg02', [200, 'on']],
      ['POST', '/reboot/pg02', [200, 'off, booting']],
      ['POST', '/off/pg09', [404, 'no machine pg09']],
      ['GET', '/off/pg01', [404, 'no GET /off/pg01 here']],
      ['POST', '/off/pg01/x', [404, 'no POST /off/pg01/x here']],
    ]
    for (const [method, path, answer] of asked) assert.equal(await ask(socket, method, path), answer, path)
    await until('it boots', { timeoutMs: 5000, everyMs: 5 }, () => said.length === 4)
    assert.equal(said, ['off pg02', 'on pg02', 'off pg02', 'on pg02'])

    power.set('pg02', 'unplugged')
    assert.equal(await ask(socket, 'POST', '/reboot/pg02'), [200, 'off'])
    assert.equal(await ask(socket, 'POST', '/on/pg02'), [409, 'unplugged'])
    assert.equal(await ask(socket, 'GET', '/status/pg02'), [200, 'off'])

    sockets.off = () => Promise.reject(new Error('it does not die'))
    assert.equal(await ask(socket, 'POST', '/off/pg01'), [500, 'it does not die'])
    await new Promise((resolve) => server.close(resolve))
    log.setLevel('info')
  }))

test('a second holder of the lock is refused until the first lets go', () =>
  inDirectory(async (dir) => {
    const first = await lock('x', 'busy', 0, dir)
    const refusal = await lock('x', 'busy', 0, dir).catch((error) => error)
    refuses(() => {
      throw refusal
    }, /^busy$/)
    ;(await lock('y', 'busy', 0, dir)).release()
    first.release()
    ;(await lock('x', 'busy', 0, dir)).release()
  }))

// The fence daemon is asked for one machine by two others at a time.
test('whoever waits for the lock does not keep its own process from letting go', () =>
  inDirectory(async (dir) => {
    const first = await lock('x', 'busy', 0, dir)
    const second = lock('x', 'busy', 60, dir)
    first.release()
    ;(await within(30_000, 'the second one', second)).release()
  }))

test('a process is not mistaken for a later one with its number', () =>
  inDirectory((dir) => {
    const me = identify(process.pid)
    assert.ok(me && isAlive(me))
    assert.not.ok(isAlive({ pid: process.pid, since: '1' }))
    assert.not.ok(isAlive(undefined))
    const file = join(dir, 'pid')
    remember(file, me)
    assert.equal(recall(file), me)
    remember(file, { pid: process.pid, since: '1' })
    assert.is(recall(file), undefined)
    assert.is(recall(file), undefined)
  }))

test('the roles are read from crm_mon, and health needs all three', () => {
  const node = (name: string, status: string) =>
    `<node name="${name}"><attribute name="master-Postgresql" value="1000"/><attribute name="Postgresql-status" value="${status}"/></node>`
  const xml = (...nodes: string[]) =>
    `<pacemaker-result api-version="2.38" request="x"><node_attributes>${nodes.join('')}</node_attributes><status code="0" message="OK"/></pacemaker-result>`
  const found = statuses(xml(node('pg01', 'HS:sync'), node('pg02', 'PRI'), node('pg03', 'HS:potential')))
  assert.equal(
    [...found],
    [
      ['pg01', 'HS:sync'],
      ['pg02', 'PRI'],
      ['pg03', 'HS:potential'],
    ],
  )
  assert.ok(isHealthy(found))
  assert.not.ok(isHealthy(statuses(xml(node('pg01', 'HS:sync'), node('pg02', 'PRI')))))
  assert.not.ok(isHealthy(statuses(xml())))
  assert.not.ok(isHealthy(new Map([...found, ['pg03', 'STOP']])))
})

test('of Ansible one sees plays, tasks and failures', () => {
  assert.is(progressOf('PLAY [Postgres nodes] ****'), 'Postgres nodes')
  assert.is(progressOf('TASK [etcd : Run etcd] ****'), '  etcd : Run etcd')
  assert.is(progressOf('ok: [pg01]'), undefined)
  assert.match(progressOf('fatal: [pg01]: FAILED! => no') ?? '', /^fatal: \[pg01\]/)
})

test('a failed playbook says which task failed where, and why', () => {
  const output = [
    'TASK [etcd : Run etcd] ****',
    'fatal: [pg02]: FAILED! => ',
    '    changed: true',
    "    msg: ''",
    "    stderr: 'sh: 4: source: parameter not set'",
    '',
    'PLAY RECAP ****',
  ]
  assert.is(failureOf(output.join('\n')), "etcd : Run etcd: pg02: 'sh: 4: source: parameter not set'")
  const block = [
    'TASK [pgcm : Copy] ****',
    'fatal: [pg01]: FAILED! => ',
    '    msg: |-',
    '        Could not find x',
    '        If so',
    '    rc: 1',
  ]
  assert.is(failureOf(block.join('\n')), 'pgcm : Copy: pg01: Could not find x')
  assert.is(failureOf('PLAY RECAP'), undefined)
})

test('the playbook is run again when anything that goes into the machines changed', () =>
  inDirectory((dir) => {
    mkdirSync(join(dir, 'lib'))
    writeFileSync(join(dir, 'lib', 'a.ts'), 'one')
    const before = hashOf(ground, dir)
    assert.is(hashOf({ ...ground }, dir), before)
    assert.is.not(hashOf({ ...ground, nodes: ['pg01', 'pg02', 'pg03'] }, dir), before)
    writeFileSync(join(dir, 'lib', 'a.ts'), 'two')
    assert.is.not(hashOf(ground, dir), before)
    writeFileSync(join(dir, 'lib', 'a.ts'), 'one')
    writeFileSync(join(dir, 'README.md'), 'words')
    assert.is(hashOf(ground, dir), before)
  }))

test('a long command that is stopped, before it begins or later, ends at once, with what it started', () =>
  inDirectory(async (dir) => {
    const options = { what: 'waiting', logFile: join(dir, 'log'), timeoutMs: 60_000 }
    const stopped = (command: string, signal: AbortSignal, show?: (line: string) => undefined) => {
      const following = follow(['sh', '-c', command], { ...options, signal, ...(show && { show }) })
      return within(30_000, 'its end', following).catch((error) => error.message)
    }
    assert.is(await stopped('sleep 60', AbortSignal.abort()), 'waiting was stopped')
    const stop = new AbortController()
    let child = undefined as ReturnType<typeof identify>
    const said = await stopped('sleep 60 >/dev/null 2>&1 & echo $!; wait', stop.signal, (line) => {
      child = identify(Number(line))
      stop.abort()
    })
    assert.is(said, 'waiting was stopped')
    assert.ok(child, 'it had begun')
    await until('what it started is gone', { timeoutMs: 20_000 }, () => !isAlive(child))
  }))

test.run()
