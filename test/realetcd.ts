/** Three real members of etcd on 127.0.0.1, with data of their own, for one test. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { sh } from '../lib/sh.ts'
import type { Tls } from '../lib/tls.ts'
import { until } from '../lib/wait.ts'

/** Out of Debian's package, unpacked by test/run, or what is installed. */
export function program(name: 'etcd' | 'etcdctl'): string {
  const from = name === 'etcd' ? 'etcd-server' : 'etcd-client'
  const file = fileURLToPath(new URL(`../.cache/${from}/usr/bin/${name}`, import.meta.url))
  return existsSync(file) ? file : name
}
const env = { ...process.env, ETCDCTL_API: '3', ETCD_UNSUPPORTED_ARCH: process.arch }

/** Ports that were free a moment ago, all of them at the same time. */
async function freePorts(n: number): Promise<number[]> {
  const servers = Array.from({ length: n }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map((server) => new Promise((resolve) => server.once('listening', resolve))))
  const ports = servers.map((server) => (server.address() as { port: number }).port)
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))))
  return ports
}

export interface Member {
  name: string
  url: string
  peer: string
  signal(name: NodeJS.Signals): void
  /** Whether it has ended, by itself or not. */
  ended(): boolean
  /** SIGKILL, and it is gone. */
  kill(): Promise<void>
  start(...words: string[]): void
}

export interface Cluster {
  members: Member[]
  endpoints: string
  /** The directory of this test, gone afterwards. */
  dir: string
  /** etcdctl, on all members or on those that are named. */
  ctl(words: string[], endpoints?: string): Promise<string>
  leader(): Promise<Member>
  /** Stops all, puts the snapshot in the place of their data, and starts them. */
  restore(snapshot: string): Promise<void>
  up(): Promise<void>
}

/** Runs `body` with a cluster that answers; with `tls` members ask for a certificate of its CA, as Ansible sets them up. */
export async function withEtcd(body: (etcd: Cluster) => Promise<void>, tls?: Tls): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-etcd-'))
  const ports = await freePorts(6)
  const scheme = tls ? 'https' : 'http'
  const children = new Set<ChildProcess>()
  if (tls)
    for (const [name, text] of Object.entries(tls)) writeFileSync(join(dir, name), text, { mode: 0o600 })
  const files = (words: string[]) => words.map((word) => join(dir, word))
  const [ca, cert, key] = files(['ca', 'cert', 'key'])
  const secure = tls
    ? [`--cert-file=${cert}`, `--key-file=${key}`, `--trusted-ca-file=${ca}`, '--client-cert-auth']
    : []
  const peers = [0, 1, 2].map((i) => `m${i}=http://127.0.0.1:${ports[i + 3]}`).join(',')

  function member(i: number): Member {
    const name = `m${i}`
    const url = `${scheme}://127.0.0.1:${ports[i]}`
    const peer = `http://127.0.0.1:${ports[i + 3]}`
    let child: ChildProcess | undefined
    return {
      name,
      url,
      peer,
      signal: (signal) => void child?.kill(signal),
      ended: () => !child || child.exitCode !== null || child.signalCode !== null,
      async kill() {
        const dying = child
        if (!dying || this.ended()) return
        const gone = new Promise((resolve) => dying.once('exit', resolve))
        dying.kill('SIGKILL')
        await gone
      },
      start(...more) {
        const words = [
          ...[`--name=${name}`, `--data-dir=${join(dir, name)}`, '--log-level=error'],
          ...[`--listen-client-urls=${url}`, `--advertise-client-urls=${url}`],
          ...[`--listen-peer-urls=${peer}`, `--initial-advertise-peer-urls=${peer}`],
          ...[`--initial-cluster=${peers}`, '--heartbeat-interval=100', '--election-timeout=1000', ...secure],
          ...more,
        ]
        const started = spawn(program('etcd'), words, { stdio: 'ignore', env })
        started.on('error', () => {}) // seen by whoever waits for it to answer
        children.add(started)
        started.on('exit', () => children.delete(started))
        child = started
      },
    }
  }
  const members = [0, 1, 2].map(member)
  const endpoints = members.map(({ url }) => url).join(',')
  const ctl = async (words: string[], at = endpoints) => {
    const auth = tls ? [`--cacert=${ca}`, `--cert=${cert}`, `--key=${key}`] : []
    const argv = [
      program('etcdctl'),
      `--endpoints=${at}`,
      '--dial-timeout=1s',
      '--command-timeout=3s',
      ...auth,
    ]
    return (await sh([...argv, ...words], { env, timeoutMs: 10_000 })).stdout
  }
  const up = async () => {
    const answers = () =>
      ctl(['get', 'nothing']).then(
        () => true,
        () => false,
      )
    await until(
      'etcd answers (is it installed? test/run unpacks it)',
      { timeoutMs: 20_000, everyMs: 50 },
      answers,
    )
  }
  try {
    for (const each of members) each.start()
    await up()
    await body({
      members,
      endpoints,
      dir,
      ctl,
      up,
      async leader() {
        const status: { Endpoint: string; Status: { leader: number; header: { member_id: number } } }[] =
          JSON.parse(await ctl(['endpoint', 'status', '--write-out=json']))
        const found = status.find(({ Status }) => Status.leader === Status.header.member_id)?.Endpoint
        return members.find(({ url }) => url === found) as Member
      },
      async restore(snapshot) {
        await Promise.all(members.map((each) => each.kill()))
        for (const [i, { name }] of members.entries()) {
          rmSync(join(dir, name), { recursive: true })
          const peer = `http://127.0.0.1:${ports[i + 3]}`
          await ctl([
            ...['snapshot', 'restore', snapshot, `--name=${name}`, `--data-dir=${join(dir, name)}`],
            ...[`--initial-cluster=${peers}`, `--initial-advertise-peer-urls=${peer}`],
          ])
        }
        for (const each of members) each.start()
        await up()
      },
    })
  } finally {
    for (const child of children) child.kill('SIGKILL')
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  }
}
