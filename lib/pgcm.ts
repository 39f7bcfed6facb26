/** pgcm: `pgcm failover` runs pgcm-failover, and so on. */
import { help, run, version } from './cli.ts'
import { Refused } from './errors.ts'
import { type ScriptName, scripts } from './options.ts'
import { showConfig } from './showconfig.ts'

const verbs = [...Object.keys(scripts).filter((name) => name !== 'pgcm'), 'show-config', 'version', 'help']

/** The module of a script, loaded only when it is run: each brings in half of our libraries. */
const modules: Record<string, () => Promise<{ main(): Promise<void> }>> = {
  supervise: () => import('./supervise.ts'),
  proxy: () => import('./proxy.ts'),
  failover: () => import('./failover.ts'),
  rejoin: () => import('./rejoin.ts'),
  status: () => import('./status.ts'),
  lock: () => import('./lock.ts'),
  playground: () => import('./playground.ts'),
}

/** `help failover` and nothing at all print help; any other word is a script's name. */
export async function main(): Promise<void> {
  const [verb, ...words] = process.argv.slice(2)
  const module = verb === undefined ? undefined : modules[verb]
  if (module) {
    process.argv.splice(2, process.argv.length, ...words)
    return (await module()).main()
  }
  return run('pgcm', async (_config, parsed, { stdout }) => {
    const [first, second] = parsed.words
    if (first === 'show-config') stdout.write(showConfig(parsed))
    else if (first === 'version') stdout.write(`pgcm ${version()}\n`)
    else if (first === undefined) stdout.write(help('pgcm'))
    else if (first === 'help' && (second === undefined || second in scripts))
      stdout.write(help((second ?? 'pgcm') as ScriptName))
    else throw new Refused(`unknown verb ${second ?? first}`, `One of: ${verbs.join(', ')}.`)
  })
}
