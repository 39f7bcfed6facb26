import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net'

/** A way to `port` of this machine that can fall silent: nothing comes through any more, not even an end's close. */
export async function throughSilence(port: number) {
  const sockets = new Set<Socket>()
  let silent = false
  const server = createServer((near) => {
    const far = dial(port, '127.0.0.1')
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from)
      from.on('error', () => {})
      from.on('data', (chunk) => !silent && to.write(chunk))
      from.on('close', () => !silent && to.destroy())
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    mute(): void {
      silent = true
    },
    close(): void {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}
