import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { AddressTaken, messageOf, Refused } from './errors.ts'
import { log } from './log.ts'

const PATIENCE_MS = 5_000
const CONNECTIONS = 8

/**
 * Serves `page` at GET /metrics of `bind`, `[host]:port`; port 0 takes a free one. Whoever connects gets one answer to one small
 * request that arrives within five seconds, and no failure here leaves this module. Throws `Refused`, naming `option`, when the
 * address is none, and `AddressTaken` when it cannot be had.
 */
export async function serveMetrics(option: string, bind: string, page: () => string) {
  const [, host = '', port] = bind.match(/^([^\s[\]:]*|\[[^\s[\]]+\]):(\d+)$/) ?? []
  if (!port || Number(port) > 65535) throw new Refused(`${option}: ${bind} is not [host]:port`)

  const limits = {
    maxHeaderSize: 8 * 1024,
    headersTimeout: PATIENCE_MS,
    requestTimeout: PATIENCE_MS,
    connectionsCheckingInterval: 1_000, // without it both are looked at twice a minute
  }
  const server = createServer(limits, (request, response) => {
    const answer = (code: number, text: string) => {
      const type = 'text/plain; version=0.0.4; charset=utf-8'
      response.writeHead(code, { 'content-type': type, connection: 'close' })
      response.end(text)
    }
    const { 'content-length': length = '0', 'transfer-encoding': encoding } = request.headers
    if (request.url?.replace(/\?.*/s, '') !== '/metrics') return answer(404, 'there is only /metrics\n')
    if (request.method !== 'GET') return answer(405, 'there is only GET\n')
    if (length !== '0' || encoding) return answer(413, 'no body, please\n')
    try {
      const text = page()
      answer(200, text)
      log.cleared('metrics.page')
    } catch (error) {
      log.trouble('metrics.page', { error })
      answer(500, 'the log of this daemon says why\n')
    }
  })
  server.maxConnections = CONNECTIONS
  server.maxRequestsPerSocket = 1
  server.setTimeout(2 * PATIENCE_MS) // whoever does not read its answer

  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const hint = 'Choose another address, or an empty one for no metrics.'
      reject(new AddressTaken(`${option}: cannot listen on ${bind}: ${messageOf(error)}`, hint))
    })
    // Without a host: both families, where the kernel has both.
    const where = host ? { host: host.replace(/^\[(.*)\]$/, '$1') } : {}
    server.listen({ port: Number(port), ...where }, resolve)
  })
  server.on('error', (error) => log.trouble('metrics.server', { error }))
  const address = server.address() as AddressInfo
  log.info('metrics.listening', { address: address.address, port: address.port })
  return {
    port: address.port,
    close(): void {
      server.close()
      server.closeAllConnections()
    },
  }
}
