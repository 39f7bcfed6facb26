/** A network, a file system for temporary files and processes of a test's own: nothing of them outlives it. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import { NODES, programs } from '../agent/rig.ts'

/** The address by which pgcm-rejoin knows a node; a loopback address it would refuse. */
export const publicAddress = (node: string) => `10.77.0.1${node.slice(-1)}`

const hosts = ['127.0.0.1 localhost', ...NODES.map((node) => `${publicAddress(node)} ${node}`)].join('\n')
const PREPARE = `set -e
ip link set lo up
for address in ${NODES.map(publicAddress).join(' ')}; do ip address add "$address/32" dev lo; done
mount -t tmpfs -o size=3g,mode=1777 pgcm-test "$TMPDIR"
printf '%s\\n' "$HOSTS" >"$TMPDIR/hosts"
mount --bind "$TMPDIR/hosts" /etc/hosts
set +e
"$@"
exit $?`

const unshare = ['--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc']

/** Why these tests cannot run on this machine. */
function unable(): string | undefined {
  const { missing } = programs()
  if (missing) return missing
  const { status, stderr } = spawnSync('unshare', [...unshare, 'true'], { encoding: 'utf8' })
  return status === 0 ? undefined : `they need namespaces of their own: unshare: ${stderr?.trim()}`
}

let missing: string | undefined

/** Makes tests of the stories, or one that says why there are none. */
export function play(stories: [string, () => Promise<void>][], what: string): void {
  if (missing)
    test(`${what} with real PostgreSQL cannot be tried here`, () =>
      console.log(`# SKIPPED: ${stories.length} tests of ${what} with real PostgreSQL: ${missing}`))
  else for (const [name, tell] of stories) test(name, tell)
}

/** Runs the test file once more, inside. Comes back there only; outside it ends with the same exit code. */
export function moveInside(url: string): void {
  if (process.env.PGCM_TEST_INSIDE) {
    delete process.env.PGCM_TEST_INSIDE // pgcm-rejoin refuses a name that it does not know
    return
  }
  missing = unable()
  if (missing) return
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-inside-'))
  const file = [process.execPath, ...process.execArgv, fileURLToPath(url)]
  const { status } = spawnSync('unshare', [...unshare, 'sh', '-c', PREPARE, 'sh', ...file], {
    stdio: 'inherit',
    env: { ...process.env, PGCM_TEST_INSIDE: '1', TMPDIR: dir, HOSTS: hosts },
  })
  rmSync(dir, { recursive: true, force: true })
  process.exit(status ?? 1)
}
