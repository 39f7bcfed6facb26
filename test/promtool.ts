import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { sh } from '../lib/sh.ts'

const unpacked = fileURLToPath(new URL('../.cache/prometheus/usr/bin/promtool', import.meta.url))

/** Runs Prometheus' own checker; gives what it prints. Throws where it finds something, and where it is not there. */
export async function promtool(argv: string[], input?: string): Promise<string> {
  const { stdout } = await sh(['which', 'promtool'], { okCodes: [0, 1] })
  const program = stdout.trim() || (existsSync(unpacked) && unpacked)
  if (!program)
    throw new Error(
      'there is no promtool: as root on Debian, test/run unpacks it; elsewhere install Prometheus',
    )
  const result = await sh([program, ...argv], {
    okCodes: [0, 1],
    timeoutMs: 120_000,
    ...(input !== undefined && { input }),
  })
  if (result.code !== 0) throw new Error(`promtool ${argv.join(' ')}\n${result.stdout}${result.stderr}`)
  return result.stdout + result.stderr
}
