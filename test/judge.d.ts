export interface Result {
  passed: number
  failed: number
  skipped: number
  why: string
}
export function tally(good: boolean, why?: string): Result
export function judge(run: {
  source: string
  output: string
  code: number | string
  hung: boolean
  deadlineS: number
  ci?: boolean
}): Result
export function shellFiles(root: string): string[]
export function leftBehind(name: string): string[]
