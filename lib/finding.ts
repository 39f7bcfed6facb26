import type { Finding } from './checks.ts'

const finding = (level: Finding['level']) => (text: string, hint?: string) => ({
  level,
  text,
  ...(hint && { hint }),
})
export const fail = finding('fail')
export const warn = finding('warn')

/** The complaints; or, where there are none, that it is well, and what was found. */
export function unless(complaints: (Finding | undefined | false)[], found: string): Finding[] {
  const real = complaints.filter((entry) => entry !== undefined && entry !== false)
  return real.length > 0 ? real : [{ level: 'ok', text: found }]
}

export const seconds = (ms: number): string => `${Math.round(ms / 100) / 10} s`
