import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { load } from '../lib/config.ts'
import { sh } from '../lib/sh.ts'

const repository = fileURLToPath(new URL('..', import.meta.url))
const ansible = join(repository, 'ansible')
const role = (name: string, ...path: string[]) => join(ansible, 'roles', name, ...path)
const roles = readdirSync(join(ansible, 'roles')).sort()

const packages: Record<string, string> = { xmllint: 'libxml2-utils' }

/** Runs a tool of Debian's in a directory; one that is not installed is a failure that names the package. */
async function tool(dir: string, argv: string[], options: Parameters<typeof sh>[1] = {}) {
  const name = argv[0] as string
  const missing = await sh(['which', name], { okCodes: [0, 1] })
  assert.is(missing.code, 0, `${name} is not installed: apt install ${packages[name] ?? name}`)
  return sh(['env', '-C', dir, ...argv], { timeoutMs: 60_000, ...options })
}

/** YAML files as JSON; Ansible brings Python's parser with it. */
async function yaml(files: string[]): Promise<unknown[]> {
  const script = 'import json,sys,yaml; print(json.dumps([yaml.safe_load(open(f)) for f in sys.argv[1:]]))'
  return JSON.parse((await tool(repository, ['python3', '-c', script, ...files])).stdout)
}

test('ansible-lint, profile production, finds nothing', async () => {
  const { stdout, code } = await tool(ansible, ['ansible-lint', '--offline', '--nocolor', '--parseable'], {
    okCodes: [0, 2],
  })
  assert.is(stdout, '')
  assert.is(code, 0)
})

test('ansible-lint is not told to look away', async () => {
  const [config] = (await yaml([join(ansible, '.ansible-lint')])) as Record<string, unknown>[]
  assert.equal([config?.profile, config?.skip_list, config?.warn_list], ['production', [], []])
  const { stdout } = await sh(['grep', '-rniE', 'noqa', ansible], { okCodes: [0, 1] })
  assert.is(stdout, '')
})

test('every role declares its options, with the defaults that it has', async () => {
  const files = roles.flatMap((name) => [
    role(name, 'defaults/main.yml'),
    role(name, 'meta/argument_specs.yml'),
  ])
  const documents = (await yaml(files)) as Record<string, unknown>[]
  roles.forEach((name, i) => {
    const spec = documents[2 * i + 1] as {
      argument_specs: { main: { options: Record<string, { default: unknown; description?: string }> } }
    }
    const options = Object.entries(spec.argument_specs.main.options)
    assert.equal(
      Object.fromEntries(options.map(([key, option]) => [key, option.default])),
      documents[2 * i],
      name,
    )
    for (const [key, option] of options) assert.ok(option.description, `${key} has no description`)
  })
})

test('task files are short, and main.yml is a table of contents', () => {
  for (const name of roles) {
    for (const file of readdirSync(role(name, 'tasks'))) {
      const text = readFileSync(role(name, 'tasks', file), 'utf8')
      assert.ok(text.split('\n').length <= 61, `${name}/tasks/${file} has more than 60 lines`)
      if (file === 'main.yml') assert.not.match(text, /ansible\.builtin\.(?!(import|include)_tasks)/, name)
    }
  }
})

test('pgcm-supervise asks for pgcm-rejoin where systemd listens, and gets no more than a clean rejoin', () => {
  const unit = (name: string) => readFileSync(role('pgcm', 'templates', `${name}.j2`), 'utf8')
  const { config } = load('supervise', [], { PGCM_CONFIG_FILE: '/dev/null' })
  assert.match(unit('pgcm-rejoin.socket'), `ListenStream=${config.rejoinSocket}\n`)
  const [, command = ''] = unit('pgcm-rejoin@.service').match(/^ExecStart=.*exec .*pgcm-rejoin (.*)'$/m) ?? []
  const { config: rejoin } = load('rejoin', command.split(' '), { PGCM_CONFIG_FILE: '/dev/null' })
  assert.equal([rejoin.ifClean, rejoin.yes, rejoin.json], [true, true, true])
})

/** Runs tasks on this machine with an inventory of its own; the addresses and the defaults of some roles are there. */
async function play(dir: string, inventory: object, of: string[], tasks: object[], okCodes = [0]) {
  const defaults = of.map((name) => role(name, 'defaults/main.yml'))
  const vars_files = [join(ansible, 'group_vars/all.yml'), ...defaults]
  const plays = [{ hosts: 'all', connection: 'local', gather_facts: false, vars_files, tasks }]
  writeFileSync(join(dir, 'play.json'), JSON.stringify(plays))
  writeFileSync(join(dir, 'hosts.yml'), JSON.stringify(inventory))
  const temp = { ANSIBLE_LOCAL_TEMP: join(dir, 'local'), ANSIBLE_REMOTE_TEMP: join(dir, 'remote') }
  const env = { ...process.env, ...temp, ANSIBLE_NOCOLOR: '1' }
  return tool(dir, ['ansible-playbook', '-i', 'hosts.yml', 'play.json'], { env, okCodes })
}

test("PostgreSQL's port reaches the agent, PgBouncer and pgcm-supervise, and the agent only where it is another", async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-port-'))
  const template = (src: string, dest: string, vars = {}) => ({
    'ansible.builtin.template': { src, dest: join(dir, `{{ inventory_hostname }}.${dest}`) },
    vars: { postgresql_version: 17, ...vars },
  })
  const cib = role('pacemaker', 'templates/cib.xml.j2')
  try {
    writeFileSync(join(dir, 'pgcm.password'), 'secret')
    const inventory = {
      postgres: { hosts: { pg01: {} }, vars: { postgresql_port: 5433 } },
      app: { hosts: { app01: {} } },
      all: { vars: { pgcm_secrets_dir: dir } },
    }
    await play(
      dir,
      inventory,
      ['pacemaker', 'pgcm'],
      [
        template(role('pgcm', 'templates/pgcm.toml.j2'), 'toml'),
        template(cib, 'xml'),
        template(cib, 'default.xml', { postgresql_port: 5432 }),
      ],
    )
    for (const [host, script] of [
      ['pg01', 'supervise'],
      ['app01', 'proxy'],
    ] as const) {
      const { config } = load(script, [], { PGCM_CONFIG_FILE: join(dir, `${host}.toml`) })
      assert.is(config.postgresPort, 5433, host)
    }
    const read = (name: string) => readFileSync(join(dir, name), 'utf8')
    assert.match(read('pg01.xml'), 'name="pgport" value="5433"')
    assert.not.match(read('pg01.default.xml'), 'pgport')
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

/** What the first tasks of all say to an inventory, by host: the message of the refusal, or nothing. */
async function refusals(
  hosts: object,
  vars: object = {},
  more: object = {},
): Promise<Record<string, string>> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-preflight-'))
  const tasks = [{ 'ansible.builtin.import_tasks': role('common', 'tasks/preflight.yml') }]
  try {
    const inventory = { postgres: { hosts, vars }, ...more }
    const { stdout } = await play(dir, inventory, [], tasks, [0, 2])
    const said = stdout.matchAll(/^fatal: \[(.+?)\]: FAILED! => (.*)$/gm)
    assert.match(stdout, 'PLAY RECAP')
    return Object.fromEntries([...said].map(([, host, why]) => [host, JSON.parse(why as string).msg]))
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

test('an inventory that cannot work is refused before anything is touched, with the cure', async () => {
  const me = hostname()
  const address = { ansible_host: '192.0.2.1' }
  const fence = { pacemaker_fence_devices: [{ id: 'fence', agent: 'fence_virsh' }] }
  const unfenced = { pacemaker_fence_devices: [], pacemaker_properties: { 'stonith-enabled': 'false' } }
  const app = { app: { hosts: { app01: address } } }
  const said = await refusals({ [me]: fence, pg02: unfenced, pg03: {} }, address, app)
  assert.equal(Object.keys(said).sort(), ['app01', 'pg02', 'pg03'], 'a good one is taken')
  assert.match(said.pg03 ?? '', /fence.*pacemaker_fence_devices.*stonith-enabled/)
  for (const name of ['pg02', 'app01'])
    assert.match(said[name] ?? '', new RegExp(`'${me}'.*hostnamectl set-hostname ${name}`))
  for (const names of [
    [me, 'pg02'],
    [me, 'pg02', 'pg03', 'pg04', 'pg05'],
  ]) {
    const hosts = Object.fromEntries(names.map((name) => [name, {}]))
    const refused = await refusals(hosts, { ...address, ...fence })
    assert.match(refused[me] ?? '', new RegExp(`exactly three.*has ${names.length}`))
  }
  const loopback = await refusals({ [me]: { ansible_host: '127.0.1.1' }, pg02: {}, pg03: {} }, fence)
  assert.match(loopback[me] ?? '', /127\.0\.1\.1/)
})

test('the inventory that comes as an example needs nothing but its machines', async () => {
  const [example] = (await yaml([join(ansible, 'inventory/example/hosts.yml')])) as {
    postgres: { hosts: object }
    all: { vars: object }
  }[]
  const said = await refusals(example?.postgres.hosts as object, example?.all.vars)
  assert.equal(Object.keys(said).sort(), ['pg01', 'pg02', 'pg03'])
  for (const message of Object.values(said)) assert.match(message, /hostnamectl/)
})

// Files from the directory of secrets, and templates that have a secret in them.
const secret = /secrets_dir( \}\}\/| ~)|userlist|pgcm\.toml|roles\.sql|bootstrap\.sh|cib\.xml/

test('nothing restarts PostgreSQL, and no task that handles a secret may print it', async () => {
  const files = roles.flatMap((name) =>
    ['tasks', 'handlers'].flatMap((dir) => {
      const all =
        dir === 'handlers' && !readdirSync(role(name)).includes(dir) ? [] : readdirSync(role(name, dir))
      return all.map((file) => role(name, dir, file))
    }),
  )
  const documents = (await yaml(files)) as Record<string, unknown>[][]
  const tasks = documents
    .flatMap((document) => document ?? [])
    .flatMap((t) => [t, ...((t.block as []) ?? [])])
  for (const task of tasks) {
    const text = JSON.stringify(task)
    assert.not.match(text, /"postgresql[^"]*","[^}]*"state":"(re)?started"/)
    if (secret.test(text)) assert.is(task.no_log, true, text)
  }
})

test('the server that makes the first data directory waits for no standby, whatever the agent has left behind', () => {
  const bootstrap = readFileSync(role('postgresql', 'templates/bootstrap.sh.j2'), 'utf8')
  const [, options = ''] = /pg_ctl start [^"]*"\$new" [^"]*"([^"]*)"/.exec(bootstrap) ?? []
  assert.match(options, /-c config_file=.* -c synchronous_standby_names=$/)
})

test('vagrant validate', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-vagrant-'))
  try {
    const env = { ...process.env, VAGRANT_HOME: dir, VAGRANT_DOTFILE_PATH: dir, PLAYGROUND_APP: '1' }
    const { stdout } = await tool(join(repository, 'vagrant'), ['vagrant', 'validate', '--ignore-provider'], {
      env,
    })
    assert.match(stdout, 'Vagrantfile validated successfully.')
    assert.match(stdout, 'app01')
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

const scripts = [
  role('common', 'files/secrets'),
  role('etcd', 'files/etcdctl-root'),
  role('etcd', 'files/join'),
  role('etcd', 'files/users'),
  role('pacemaker', 'files/fence_playground'),
  role('pacemaker', 'files/merge_cib'),
  role('pgcm', 'files/pack'),
  role('pgcm', 'files/unpack'),
  role('pgcm', 'files/pgcm-alert'),
]
test("shellcheck finds nothing in the roles' scripts", async () => {
  await tool(repository, ['shellcheck', '--shell=dash', ...scripts])
})

const fence = role('pacemaker', 'files/fence_playground')
test('the fence agent describes itself well-formed, with the parameters and actions that Pacemaker asks for', async () => {
  const { stdout } = await sh([fence, '-o', 'metadata'])
  await tool(repository, ['xmllint', '--noout', '-'], { input: stdout })
  for (const name of ['action', 'plug', 'port', 'socket']) assert.match(stdout, `<parameter name="${name}"`)
  for (const name of ['off', 'reboot', 'status', 'list', 'monitor', 'metadata'])
    assert.match(stdout, `<action name="${name}"/>`)
})

test('the fence agent refuses what it cannot do', async () => {
  const cases: [string, RegExp][] = [
    ['action=off\n', /needs a plug/],
    ['action=explode\nplug=pg01', /unknown action 'explode'/],
    ['action=status\nport=pg01\nsocket=/nowhere', /does not do 'GET \/status\/pg01' through \/nowhere/],
    ['action=monitor\nsocket=/nowhere\n', /does not do 'GET \/list'/],
  ]
  for (const [input, message] of cases) {
    const { stderr } = await sh([fence], { input, okCodes: [1] })
    assert.match(stderr, message)
  }
})

test('secrets are made once, for their owner only, and a certificate again when its address changed', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-secrets-'))
  const secrets = async (...names: string[]) =>
    (await sh([role('common', 'files/secrets'), join(dir, 's'), ...names])).stdout.trim().split('\n')
  try {
    const all = ['ca.key', 'ca.crt', 'corosync.authkey', 'app.password', 'pg01.key', 'pg01.crt']
    assert.equal(await secrets('app', 'pg01=192.0.2.1'), all)
    assert.equal(await secrets('app', 'pg01=192.0.2.1'), [''])
    assert.equal(await secrets('app', 'pg01=192.0.2.2'), ['pg01.crt'])
    const { stdout } = await sh(['find', join(dir, 's'), '-perm', '/077'])
    assert.is(stdout, '')
    await sh(['openssl', 'verify', '-CAfile', join(dir, 's/ca.crt'), join(dir, 's/pg01.crt')])
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})

test.run()
