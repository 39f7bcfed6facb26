/** What a list of measurements comes to. */
export interface Stats {
  min: number
  median: number
  /** 99th percentile: the worst of fewer than a hundred. */
  p99: number
  worst: number
}

/** Rounded to whole units; of an empty list everything is NaN, so that nothing passes for a good figure. */
export function stats(values: readonly number[]): Stats {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median =
    sorted.length % 2 === 1
      ? sorted[middle]
      : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
  const round = (value: number | undefined) => Math.round(value ?? Number.NaN)
  return {
    min: round(sorted[0]),
    median: round(median),
    p99: round(sorted[Math.ceil(sorted.length * 0.99) - 1]),
    worst: round(sorted.at(-1)),
  }
}
