import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { askRejoin } from '../lib/rejoinsocket.ts'

/** What systemd does with a connection: hands it to the command as its stdout. */
async function withSocket(command: ((socket: Socket) => void) | null, options = {}): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-rejoin-'))
  const path = join(dir, 'sock')
  const open: Socket[] = []
  const server = createServer((socket) => {
    open.push(socket.on('error', () => {}))
    command?.(socket)
  })
  if (command) await new Promise<void>((resolve) => server.listen(path, resolve))
  try {
    const ask = { timeoutMs: 2000, signal: new AbortController().signal, ...options }
    return await askRejoin(path, ask).catch((error) => `${error.code}: ${error.message}`)
  } finally {
    for (const socket of open) socket.destroy()
    server.close()
    rmSync(dir, { recursive: true })
  }
}
const lines = (...records: object[]) => records.map((each) => `${JSON.stringify(each)}\n`).join('')
const evidence = { event: 'evidence', cure: 'none' }

test('the lines of pgcm-rejoin come back once it has ended', async () => {
  const said = lines(evidence, { event: 'receipt', ok: true })
  const got = await withSocket((socket) => {
    socket.write(said.slice(0, 30))
    setImmediate(() => socket.end(said.slice(30)))
  })
  assert.is(got, said)
})

test('a receipt that says no is an error with its reason and its cure', async () => {
  const receipt = { event: 'receipt', ok: false, error: 'pg01 is not clean', hint: 'sudo pgcm-rejoin.' }
  assert.is(
    await withSocket((socket) => socket.end(lines(evidence, receipt))),
    '9: pg01 is not clean. sudo pgcm-rejoin.',
  )
})

for (const [what, command, says] of [
  ['it dies half-way', (socket: Socket) => socket.end(lines(evidence)), 'gave no receipt'],
  ['systemd starts no second one', (socket: Socket) => socket.end(), 'it runs there already'],
  ['it never ends', () => {}, 'no receipt within 50 ms'],
  ['there is no such unit', null, 'pgcm-rejoin.socket is not there'],
] as [string, ((socket: Socket) => void) | null, string][])
  test(`${what}: it says so`, async () => {
    assert.match(await withSocket(command, what === 'it never ends' ? { timeoutMs: 50 } : {}), says)
  })

test('a caller that goes away ends the waiting', async () => {
  const gone = new AbortController()
  const got = withSocket(() => gone.abort(), { signal: gone.signal })
  assert.match(await got, 'the caller has gone')
})

test.run()
