import { existsSync, readFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { databasesIn } from '../lib/render.ts'

type Row = Record<string, string | null>

function message(type: string, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5, type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}
const int = (value: number, bytes: 2 | 4) => {
  const buffer = Buffer.alloc(bytes)
  buffer.writeIntBE(value, 0, bytes)
  return buffer
}
const text = (value: string) => Buffer.from(`${value}\0`)
const ready = message('Z', Buffer.from('I'))

function table(rows: Row[], type = 25): Buffer {
  const columns = Object.keys(rows[0] ?? { none: '' })
  const described = columns.flatMap((name) => [text(name), Buffer.alloc(6), int(type, 4), Buffer.alloc(8)])
  const cell = (value: string | null | undefined) =>
    value == null ? int(-1, 4) : Buffer.concat([int(Buffer.byteLength(value), 4), Buffer.from(value)])
  return Buffer.concat([
    message('T', int(columns.length, 2), ...described),
    ...rows.map((row) => message('D', int(columns.length, 2), ...columns.map((name) => cell(row[name])))),
    message('C', text('SHOW')),
  ])
}

const BOOLEAN = 16

/**
 * As much of PgBouncer's admin console as the daemons use: it takes its databases from `file` at each RELOAD. And as
 * much of a standby as tells that it is one.
 */
export async function pooler(file: string) {
  const state = {
    refuses: false,
    paused: false,
    said: [] as string[],
    /** Where the server connection of a client, number 7, goes that has one. */
    hangsOn: null as string | null,
  }
  let databases = new Map<string, string | null>()
  const answers: Record<string, () => Buffer> = {
    'SHOW DATABASES': () =>
      table([...databases].map(([name, host]) => ({ name, host, port: '5432', paused: '0', disabled: '0' }))),
    'SELECT NOT pg_is_in_recovery() AS "primary"': () => table([{ primary: 'f' }], BOOLEAN),
    'SHOW SERVERS': () =>
      table(
        state.hangsOn ? [{ database: [...databases.keys()][0] ?? '', addr: state.hangsOn, link: 'c' }] : [],
      ),
    'SHOW CLIENTS': () => table(state.hangsOn ? [{ ptr: 'c', id: '7' }] : []),
    RELOAD: () => {
      databases = existsSync(file) ? new Map(databasesIn(readFileSync(file, 'utf8'))) : databases
      return message('C', text('RELOAD'))
    },
    PAUSE: () => {
      state.paused = true
      return message('C', text('PAUSE'))
    },
    RESUME: () => {
      state.paused = false
      return message('C', text('RESUME'))
    },
  }
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('close', () => open.delete(socket))
    socket.on('error', () => {})
    let rest: Buffer = Buffer.alloc(0)
    let started = false
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk])
      for (;;) {
        const head = started ? 1 : 0
        if (rest.length < head + 4 || rest.length < head + rest.readInt32BE(head)) return
        const size = head + rest.readInt32BE(head)
        const [type, body] = [started ? String.fromCharCode(rest[0] ?? 0) : '', rest.subarray(head + 4, size)]
        rest = rest.subarray(size)
        if (!started) {
          started = true
          socket.write(Buffer.concat([message('R', int(0, 4)), ready]))
        } else if (type === 'Q') {
          const query = body.toString('utf8', 0, body.length - 1)
          state.said.push(query)
          const refusal = message('E', text('SFATAL'), text('C08P01'), text('Mnot today'), Buffer.from([0]))
          socket.write(Buffer.concat([state.refuses ? refusal : (answers[query]?.() ?? table([])), ready]))
        }
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    state,
    port: (server.address() as AddressInfo).port,
    close(): void {
      server.close()
      for (const socket of open) socket.destroy()
    },
  }
}
