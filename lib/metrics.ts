import { type Labels, type Metric, type Sample, table } from './metrictable.ts'

/** Upper bounds of the histograms, in seconds: a failover's phases take from some milliseconds to its time-outs. */
const BOUNDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

const escaped = (text: string) => text.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')

/** `name{label="value"}`. */
function series(name: string, labels: Record<string, string> = {}): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${escaped(value)}"`)
  return pairs.length > 0 ? `${name}{${pairs.join(',')}}` : name
}

/** Counts, and asks its sources for the rest when somebody reads. What it holds is bounded by the labels there are. */
export function registry() {
  const counted = new Map<Metric, Map<string, number>>()
  const sources: (() => Iterable<Sample>)[] = []

  function bump(metric: Metric, line: string, by: number): void {
    const lines = counted.get(metric) ?? new Map<string, number>()
    counted.set(metric, lines)
    lines.set(line, (lines.get(line) ?? 0) + by)
  }

  return {
    /** Counts; by 0 it only makes the series known, so that its first count is seen as an increase. */
    add<M extends Metric>(metric: M, labels: Labels<M>, by = 1): void {
      bump(metric, series(metric, labels), by)
    },

    /** Puts a duration into a histogram. */
    observe<M extends Metric>(metric: M, labels: Labels<M>, seconds: number): void {
      const bucket = (le: string) => series(`${metric}_bucket`, { ...labels, le })
      for (const bound of BOUNDS) bump(metric, bucket(String(bound)), seconds <= bound ? 1 : 0)
      bump(metric, bucket('+Inf'), 1)
      bump(metric, series(`${metric}_sum`, labels), seconds)
      bump(metric, series(`${metric}_count`, labels), 1)
    },

    /** `source` is asked at every reading; it must be quick, and answer from what is known. */
    collect(source: () => Iterable<Sample>): void {
      sources.push(source)
    },

    /** The page in Prometheus' text format. */
    text(): string {
      const lines = new Map<Metric, string[]>()
      for (const [metric, values] of counted)
        lines.set(
          metric,
          [...values].map(([line, value]) => `${line} ${value}`),
        )
      for (const source of sources)
        for (const [metric, value, labels] of source()) {
          const line = `${series(metric, labels)} ${value}`
          lines.set(metric, [...(lines.get(metric) ?? []), line])
        }
      return Object.entries(table)
        .map(([name, { type, help }]) => [name, type, help, lines.get(name as Metric) ?? []] as const)
        .filter(([, , , values]) => values.length > 0)
        .map(
          ([name, type, help, values]) =>
            `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${values.join('\n')}\n`,
        )
        .join('')
    },
  }
}

export const metrics = registry()
