/** Who is what, as one table: a row a machine. */
import type { NodeView } from './cluster.ts'
import { colour } from './colour.ts'
import { clusterOf, nameOf, primaryOf, type Seen, type Survey, streaming } from './survey.ts'

export interface Row {
  name: string
  kind: 'node' | 'app'
  /** primary, standby, app, down, stopped */
  role: string
  status: string | null
  dataStatus: string | null
  timeline: number | null
  lagBytes: number | null
  /** Addresses its PgBouncer sends clients to, without repetition. */
  pointsAt: string[]
  paused: boolean
  pausedUntil: string | null
  error: string | null
}

const HEAD = ['node', 'role', 'status', 'data', 'timeline', 'lag', 'pgbouncer']

export function topology(survey: Survey): Row[] {
  const lags = streaming(survey)
  const primary = primaryOf(survey)
  return survey.seen.map((seen) => {
    const { kind, status, error } = seen
    const name = nameOf(survey, seen)
    const node = clusterOf(survey)?.nodes.find((each) => each.name === name)
    return {
      name,
      kind,
      role: roleOf(seen, node),
      status: node?.status ?? null,
      dataStatus: node?.dataStatus ?? null,
      timeline: status?.postgres?.timeline ?? null,
      lagBytes: name === primary?.name ? null : (lags.get(name)?.lagBytes ?? null),
      pointsAt: [...new Set(status?.pgbouncer?.databases.map(({ host }) => host))],
      paused: status?.pgbouncer?.paused ?? false,
      pausedUntil: status?.pause?.expiresAt ?? null,
      error: error ?? null,
    }
  })
}

function roleOf({ kind, status }: Seen, node: NodeView | undefined): string {
  if (kind === 'app') return status ? 'app' : 'down'
  if (node && !node.online) return 'down'
  return status ? (status.postgres?.role ?? 'stopped') : 'silent'
}

const cells = (row: Row): string[] => [
  row.name,
  row.role,
  row.status ?? '-',
  row.dataStatus ?? '-',
  String(row.timeline ?? '-'),
  row.lagBytes === null ? '-' : `${row.lagBytes} B`,
  row.error === null
    ? `${row.pointsAt.length > 0 ? `-> ${row.pointsAt.join(', ')}` : 'no answer'}${row.paused ? `, paused${row.pausedUntil ? ` until ${row.pausedUntil}` : ''}` : ''}`
    : row.error,
]

/** The table as lines; the primary stands out. */
export function tableOf(rows: Row[]): string {
  const table = [HEAD, ...rows.map(cells)]
  const widths = HEAD.map((_, column) => Math.max(...table.map((line) => line[column]?.length ?? 0)))
  const paint = (i: number, text: string) => {
    if (i === 0) return colour.grey(text)
    const row = rows[i - 1]
    if (row?.role === 'primary') return colour.bold(text)
    return row?.error || row?.paused ? colour.red(text) : text
  }
  return table
    .map((line, i) =>
      paint(
        i,
        line
          .map((cell, column) => cell.padEnd(widths[column] ?? 0))
          .join('  ')
          .trimEnd(),
      ),
    )
    .join('\n')
}
