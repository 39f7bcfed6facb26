/** A PgBouncer as far as its admin console goes: it says where the databases of the ini file point. */
import { readFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { databasesIn } from '../lib/render.ts'

function packet(type: string, ...parts: (string | number | Buffer)[]): Buffer {
  const body = Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(`${part}\0`)
      if (typeof part !== 'number') return part
      const number = Buffer.alloc(4)
      number.writeInt32BE(part)
      return number
    }),
  )
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

const short = (n: number) => Buffer.from([n >> 8, n & 255])
const ready = packet('Z', Buffer.from('I'))

export function table(columns: string[], rows: string[][]): Buffer {
  const names = columns.flatMap((name) => [name, 0, short(0), 25, short(0xffff), 0xffff, short(0)])
  const lines = rows.map((row) =>
    packet('D', short(row.length), ...row.flatMap((cell) => [Buffer.byteLength(cell), Buffer.from(cell)])),
  )
  return Buffer.concat([packet('T', short(columns.length), ...names), ...lines, packet('C', 'SHOW')])
}

/**
 * Listens at `socket`; `reloads` counts. `servers`: database, address and client of each connection in use. To who asks whether
 * it is a primary it says so; `other` is what it answers to anything else.
 */
export async function fakeConsole(socket: string, ini: string, other = table(['ptr'], [])) {
  const state = { reloads: 0, connections: 0, servers: [] as string[][], killed: [] as string[] }
  let databases = new Map<string, string | null>()
  const answer = (query: string): Buffer => {
    if (query === 'RELOAD') {
      state.reloads += 1
      databases = databasesIn(readFileSync(ini, 'utf8'))
      return packet('C', 'RELOAD')
    }
    if (query === 'SHOW DATABASES') {
      const rows = [...databases].map(([name, host]) => [name, host ?? '', '5432', '0', '0', 'transaction'])
      return table(['name', 'host', 'port', 'paused', 'disabled', 'pool_mode'], rows)
    }
    if (query === 'SHOW SERVERS') return table(['database', 'addr', 'link'], state.servers)
    if (query === 'SHOW CLIENTS')
      return table(
        ['ptr', 'id'],
        state.servers.map(([, , client = '']) => [client, client]),
      )
    if (query.startsWith('KILL_CLIENT')) state.killed.push(query.slice('KILL_CLIENT '.length))
    return query.includes('pg_is_in_recovery') ? table(['primary'], [['t']]) : other
  }
  const serve = (client: Socket) => {
    state.connections += 1
    client.on('error', () => {})
    client.on('close', () => {
      state.connections -= 1
    })
    let started = false
    let kept = Buffer.alloc(0)
    client.on('data', (chunk) => {
      kept = Buffer.concat([kept, chunk])
      for (;;) {
        const from = started ? 1 : 0
        if (kept.length < from + 4) return
        const end = from + kept.readInt32BE(from)
        if (kept.length < end) return
        const body = kept.subarray(from + 4, end)
        const type = started ? kept.toString('latin1', 0, 1) : ''
        kept = kept.subarray(end)
        if (!started) {
          started = true
          client.write(Buffer.concat([packet('R', 0), ready]))
        } else if (type === 'Q')
          client.write(Buffer.concat([answer(body.toString('utf8', 0, body.length - 1)), ready]))
        else if (type === 'X') client.end()
      }
    })
  }
  const server = createServer(serve)
  await new Promise<void>((resolve) => server.listen(socket, resolve))
  return { state, close: () => server.close() }
}
