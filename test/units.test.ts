/** The daemons' units, as Ansible writes them: how much they are left to do. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { LONGEST_EXPIRY_MS } from '../lib/options.ts'
import { sh } from '../lib/sh.ts'

const templates = new URL('../ansible/roles/pgcm/templates/', import.meta.url).pathname

async function unit(name: string, body: (file: string, text: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-unit-'))
  const file = join(dir, `${name}.service`)
  const task = `src=${templates}${name}.service.j2 dest=${file}`
  const env = {
    ...process.env,
    ANSIBLE_LOCAL_TEMP: dir,
    ANSIBLE_HOME: dir,
    ANSIBLE_LOCALHOST_WARNING: 'false',
  }
  const ansible = [
    'ansible',
    'localhost',
    '--connection',
    'local',
    '--module-name',
    'ansible.builtin.template',
  ]
  try {
    await sh([...ansible, '--args', task], { env, timeoutMs: 60_000 })
    await body(file, readFileSync(file, 'utf8'))
  } finally {
    rmSync(dir, { recursive: true })
  }
}

// In tenths, as systemd-analyze counts. What is left is what they need: the network, their groups, a compiler in Node.
for (const [name, most] of [
  ['pgcm-proxy', 20],
  ['pgcm-supervise', 20],
] as const) {
  test(`${name} has little to attack with`, async () => {
    await unit(name, async (file, text) => {
      const words = ['security', '--offline=true', '--no-pager', `--threshold=${most}`, file]
      const { code, stdout, stderr } = await sh(['systemd-analyze', ...words], { okCodes: [0, 1] })
      assert.is(
        code,
        0,
        stdout
          .split('\n')
          .filter((line) => /^✗|Overall/.test(line))
          .join('\n'),
      )
      assert.is(stderr, '', 'a directive that systemd does not know')
      assert.match(text, /^WantedBy=multi-user.target$/m)
    })
  })

  test(`${name} can still do its work`, async () => {
    await unit(name, async (_, text) => {
      for (const fatal of [
        /^MemoryDenyWriteExecute/m,
        /^ProcSubset/m,
        /^PrivateUsers/m,
        /^PrivateNetwork/m,
        /^Limit/m,
      ])
        assert.not.match(text, fatal)
      const pack = readFileSync(`${templates}../files/pack`, 'utf8')
      for (const [file, top] of text.matchAll(/\/opt\/pgcm\/([^/\s]+)\S*/g))
        assert.match(pack, new RegExp(`--directory "\\$repository".* ${top} `), `${file} is not packed`)
      // systemd-notify is a program of its own.
      assert.match(text, /^NotifyAccess=all$/m)
    })
  })
}

test('the longest pause ends before systemd kills a daemon that waits for its end', () => {
  const seconds = readFileSync(`${templates}service.j2`, 'utf8').match(/^TimeoutStopSec=(\d+)$/m)?.[1]
  assert.ok(Number(seconds) * 1000 >= LONGEST_EXPIRY_MS + 10_000, `${seconds} s`)
})

test.run()
