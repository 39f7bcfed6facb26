import { createServer, connect as open, type Socket } from 'node:net'

/** A way to a server through which no more than so many bytes come, until it is opened. */
export class Gate {
  /** Bytes that each connection has brought so far, newest last. */
  readonly brought: { bytes: number }[] = []
  private limit = Number.POSITIVE_INFINITY
  private counts = () => true
  private waiting: Socket[] = []
  private reached: () => void = () => {}

  /** Listens on `from` and passes on to `to`, on the same port. */
  static async make(from: string, to: string, port: number): Promise<Gate> {
    const gate = new Gate()
    const server = createServer((client) => gate.pass(client, open(port, to)))
    await new Promise<void>((resolve) => server.listen(port, from, resolve))
    server.unref()
    return gate
  }

  /** Resolves once a connection has brought that much, while `counts` said yes; it is held from then on. */
  shutAfter(bytes: number, counts: () => boolean = () => true): Promise<void> {
    this.limit = bytes
    this.counts = counts
    return new Promise((resolve) => {
      this.reached = resolve
    })
  }

  open(): void {
    this.limit = Number.POSITIVE_INFINITY
    for (const socket of this.waiting.splice(0)) socket.resume()
  }

  private pass(client: Socket, server: Socket): void {
    const count = { bytes: 0 }
    this.brought.push(count)
    client.pipe(server)
    server.on('data', (chunk) => {
      count.bytes += chunk.length
      client.write(chunk)
      if (count.bytes < this.limit || !this.counts()) return
      server.pause()
      this.waiting.push(server)
      this.reached()
    })
    server.on('end', () => client.end())
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => other.destroy())
      one.on('close', () => other.destroy())
      one.unref()
    }
  }
}
