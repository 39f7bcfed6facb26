/** What test/run decides, apart from the running: pure, and tested by test/judge.test.ts. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'

export const tally = (good, why = '') => ({ passed: good ? 1 : 0, failed: good ? 0 : 1, skipped: 0, why })

/**
 * Judges one test file by what uvu printed, not by its exit code.
 * A test that says `# SKIPPED: why`, or `# SKIPPED: 9 tests of ...`, has not passed; where nobody reads (`ci`) it failed.
 * Returns { passed, failed, skipped, why }; why names what is wrong beyond a test that failed.
 */
export function judge({ source, output, code, hung, deadlineS, ci = false }) {
  const plain = stripVTControlCharacters(output)
  const count = (word) =>
    plain.match(new RegExp(`^ +${word}: +(\\d+)$`, 'gm'))?.map((line) => Number(line.match(/\d+/)))
  const totals = count('Total') ?? []
  const total = totals.at(-1) ?? 0
  const passed = count('Passed')?.at(-1) ?? 0
  const skipped = count('Skipped')?.at(-1) ?? 0
  const whole = (why) => ({ passed, failed: Math.max(1, total - passed), skipped: 0, why })

  if (hung) return whole(`killed after ${deadlineS} s: a test or an open handle hangs`)
  if (totals.length === 0) return whole('no counts were printed: test.run() is missing, or the process died')
  if (totals.length > 1) return whole('counts were printed more than once')
  if (total === 0) return whole('no test ran')
  if (skipped > 0 || /\btest\.(only|skip)\(/.test(source)) return whole('an .only or a .skip was left in')
  if (/\btest\.(before|after)\b/.test(source))
    return whole('hooks are not used here: set up inside the tests')
  if (passed < total) return whole('')
  if (code !== 0) return whole(`every test passed, yet the process ended with ${code}`)
  const notRun = [...plain.matchAll(/^(?:• )*# SKIPPED(?:: (\d+) tests)?/gm)].map(([, tests]) =>
    Number(tests ?? 1),
  )
  const missed = notRun.reduce((sum, tests) => sum + tests, 0)
  const rest = passed - notRun.length
  if (ci && missed > 0)
    return { passed: rest, failed: missed, skipped: 0, why: 'in CI nothing may be skipped' }
  return { passed: rest, failed: 0, skipped: missed, why: '' }
}

/** Every shell file of the repository: by name, by first line, and the alert and fence agents by both. */
export function shellFiles(root) {
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  })
  const files = listed.split('\n').filter((file) => file !== '' && existsSync(join(root, file)))
  return files.filter((file) => {
    if (file.endsWith('.sh')) return true
    if (/\.(ts|js|json|md|ya?ml|j2|ejs|xml|svg|proto|rng)$/.test(file)) return false
    return /^#!.*\b(sh|bash|dash)\b/.test(readFileSync(join(root, file), 'utf8').split('\n', 1)[0])
  })
}

/** What a destroyed playground must not leave: directory, mounts, processes, bridge. */
export function leftBehind(name) {
  const dir = `/var/lib/pgcm-playground/${name}`
  const left = []
  if (existsSync(`/sys/class/net/pgcm-${name}`)) left.push(`bridge pgcm-${name}`)
  if (existsSync(dir)) left.push(`directory ${dir}`)
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    if (line.includes(`${dir}/`) || line.includes(`${dir} `)) left.push(`mount ${line.split(' ')[4]}`)
  }
  const { stdout } = spawnSync('ps', ['-eo', 'pid=,args='], { encoding: 'utf8' })
  for (const line of (stdout ?? '').split('\n')) {
    if (line.includes(`${dir}/`)) left.push(`process ${line.trim()}`)
  }
  return left
}
