/** Simulated proxies: APIs on loopback whose PgBouncer takes a fixed time to pause. `poolers.ts COUNT MS` prints their addresses. */
import { serve } from '../lib/apiserver.ts'
import { log } from '../lib/log.ts'
import { sleep } from '../lib/wait.ts'

log.setLevel('error')
const [count, costMs] = process.argv.slice(2).map(Number) as [number, number]
const handlers = {
  pause: async () => {
    await sleep(costMs)
    return {}
  },
  resume: async () => ({}),
  health_check: async () => ({ status: 'HEALTHY' }),
}
const one = () => serve({ bind: '127.0.0.1:0', tls: null, allowed: [], handlers })
const servers = await Promise.all(Array.from({ length: count }, one))
console.log(JSON.stringify(servers.map(({ port }) => `127.0.0.1:${port}`)))
process.stdin.resume().on('end', () => process.exit()) // whoever started us has gone
