import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Refused } from './errors.ts'
import { places } from './playground-layout.ts'
import { lock } from './playground-lock.ts'
import { follow, say } from './playground-progress.ts'
import { sh } from './sh.ts'

/** All that the machines need, since they cannot reach a mirror themselves. */
const packages = [
  ...['systemd', 'systemd-sysv', 'dbus', 'iproute2', 'iputils-ping', 'nftables', 'openssh-server', 'sudo'],
  ...['python3', 'python3-psycopg2', 'curl', 'ca-certificates', 'procps', 'less', 'libxml2-utils', 'rsync'],
  ...['corosync', 'pacemaker', 'pacemaker-cli-utils', 'postgresql', 'postgresql-client'],
  ...['etcd-server', 'etcd-client', 'pgbouncer', 'nodejs', 'openssl'],
]

/** Ansible says what runs on a machine; until then only sshd does. */
const idle = ['corosync', 'pacemaker', 'etcd', 'pgbouncer', 'postgresql']
const masked = ['apt-daily.timer', 'apt-daily-upgrade.timer', 'fstrim.timer', 'e2scrub_all.timer']

const files: Record<string, string> = {
  // A journal on disk costs more writes than the cluster itself.
  'etc/systemd/journald.conf.d/playground.conf': '[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\n',
  'etc/systemd/system.conf.d/playground.conf': '[Manager]\nDefaultTimeoutStopSec=15s\n',
  'etc/postgresql-common/createcluster.conf': 'create_main_cluster = false\n',
  'etc/resolv.conf': '',
}

const recipe = JSON.stringify([packages, idle, masked, files])

/** Where the image of `release` is kept; another recipe makes another name. */
export function imageDir(release: string, cache: string = places.cache): string {
  return join(cache, `${release}-${createHash('sha256').update(recipe).digest('hex').slice(0, 12)}`)
}

/**
 * The host's own mirrors, as apt lines for `release`. `targets` is what `apt-get indextargets` prints for
 * `$(RELEASE) $(COMPONENT) $(REPO_URI)`; `codename` is the host's release.
 */
export function mirrors(targets: string, codename: string, release: string): string[] {
  const lines = new Set<string>()
  for (const line of targets.split('\n')) {
    const [suite, component, uri] = line.trim().split(/\s+/)
    const [, base, pocket = ''] = suite?.match(/^([a-z]+)(-security|-updates)?$/) ?? []
    if (component !== 'main' || !base || ![codename, 'stable', 'oldstable'].includes(base)) continue
    lines.add(`deb ${uri} ${release}${pocket} main`)
  }
  if (![...lines].some((line) => line.endsWith(` ${release} main`))) {
    throw new Refused(
      "apt's settings on this machine name no Debian mirror",
      `Add one for ${codename} main to /etc/apt/sources.list.`,
    )
  }
  return [...lines]
}

/** Gives the directory of the image, building it where it is not in the cache. */
export async function ensureImage(release: string, signal?: AbortSignal): Promise<string> {
  const image = imageDir(release)
  if (existsSync(image)) return image
  const held = await lock('image', 'another playground builds its image', 900)
  try {
    if (!existsSync(image)) await build(release, image, signal)
    return image
  } finally {
    held.release()
  }
}

async function build(release: string, image: string, signal?: AbortSignal): Promise<void> {
  const codename = readFileSync('/etc/os-release', 'utf8').match(/^VERSION_CODENAME=(\w+)/m)?.[1] ?? ''
  const format = '$(RELEASE) $(COMPONENT) $(REPO_URI)'
  const { stdout } = await sh(['apt-get', 'indextargets', '--format', format, 'Created-By: Packages'])
  const lines = mirrors(stdout, codename, release)
  const unfinished = `${image}.new`
  rmSync(unfinished, { recursive: true, force: true })
  mkdirSync(places.cache, { recursive: true, mode: 0o700 })
  say(`building the ${release} image (once; about a minute)`)
  const exclude = ['man', 'doc', 'locale', 'info'].map(
    (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
  )
  const noCluster =
    'mkdir -p "$1/etc/postgresql-common" && echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf"'
  await follow(
    [
      ...['mmdebstrap', '--mode=root', '--format=directory', '--variant=minbase'],
      ...['--dpkgopt=force-unsafe-io', ...exclude, `--essential-hook=${noCluster}`],
      ...[`--include=${packages.join(',')}`, release, unfinished, ...lines],
    ],
    {
      what: 'building the image',
      logFile: join(places.cache, `${release}.log`),
      timeoutMs: 900_000,
      ...(signal && { signal }),
      show: (line) => line.match(/^I: ((?:downloading|extracting|installing) .*)/)?.[1],
    },
  )
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(unfinished, path, '..'), { recursive: true })
    rmSync(join(unfinished, path), { force: true }) // never through a link, which would lead out of the image
    writeFileSync(join(unfinished, path), text)
  }
  const systemctl = (...words: string[]) => sh(['chroot', unfinished, 'systemctl', ...words])
  await systemctl('disable', ...idle)
  await systemctl('mask', ...masked)
  await systemctl('enable', 'systemd-networkd', 'ssh')
  rmSync(join(unfinished, 'etc/machine-id'), { force: true })
  renameSync(unfinished, image)
}
