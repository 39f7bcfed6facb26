import { isIP } from 'node:net'
import ejs from 'ejs'
import type { Config } from './config.ts'
import { Failed, messageOf } from './errors.ts'
import type { Cluster } from './publish.ts'

/** What the template sees, as `it`. */
export interface Model {
  primary: string
  epoch: number
  databases: string[]
  /** Those that stream and are not too far behind. */
  standbys: { name: string; address: string }[]
  /** Addresses for reading, comma-separated: the standbys', or the primary's where there is none. */
  readers: string
  settings: {
    postgresPort: number
    listenAddress: string
    port: number
    socketDir: string
    authType: string
    authFile: string
    user: string
    poolSize: number
    maxClients: number
  }
}

/** Throws for whatever could end a line, open a section, or stand for something that is not there. */
function plainWord(value: unknown): string {
  const text = String(value ?? '')
  if (!/^[A-Za-z0-9_.,:/*@-]+$/.test(text))
    throw new Failed(`${JSON.stringify(value) ?? 'undefined'} cannot stand in the file`)
  return text
}

/** Compiles a template. It and what comes out throw `Failed`, naming `file`, for whatever is wrong with it. */
export function template(text: string, file: string): (model: Model) => string {
  const named = (cause: unknown) => new Failed(`${file}: ${messageOf(cause)}`, undefined, { cause })
  // `<%-` would print without a look at what it prints.
  if (/<%-/.test(text)) throw named('<%- is not allowed: use <%=')
  let compiled: (model: Model) => string
  try {
    // Without compileDebug: its error messages would run the file name through `escape`.
    const options = {
      strict: true,
      _with: false,
      localsName: 'it',
      async: false,
      escape: plainWord,
      compileDebug: false,
    } as const
    compiled = ejs.compile(text, options) as (model: Model) => string
  } catch (cause) {
    throw named(cause)
  }
  return (model) => {
    try {
      return compiled(model)
    } catch (cause) {
      throw named(cause)
    }
  }
}

/** The databases of a pgbouncer.ini and the hosts they name. */
export function databasesIn(ini: string): Map<string, string | null> {
  const found = new Map<string, string | null>()
  let section = ''
  for (const line of ini.split('\n')) {
    const head = line.match(/^\s*\[(.+)\]\s*$/)
    if (head) section = head[1] ?? ''
    const entry = section === 'databases' && line.match(/^\s*([^;#\s=]+)\s*=\s*(.*)$/)
    if (entry) found.set(entry[1] ?? '', entry[2]?.match(/(?:^|\s)host=(\S+)/)?.[1] ?? null)
  }
  return found
}

/** The new pgbouncer.ini. Throws `Failed` rather than give one in which a managed database points anywhere else. */
export function render(compiled: (model: Model) => string, model: Model): string {
  if (!isIP(model.primary))
    throw new Failed(`the primary's address in etcd is none: ${JSON.stringify(model.primary)}`)
  const text = compiled(model)
  const found = databasesIn(text)
  for (const name of model.databases) {
    if (found.get(name) !== model.primary)
      throw new Failed(`the template points ${name} at ${found.get(name) ?? 'nothing'}`)
  }
  if (!/^\s*\[pgbouncer\]\s*$/m.test(text)) throw new Failed('the template has no section [pgbouncer]')
  return text
}

/** An address that can stand in the file; that of a link has a % in it, and is of use on that link only. */
const usable = (address: string | null): address is string =>
  address !== null && isIP(address) > 0 && !address.includes('%')

export function modelOf(
  config: Config,
  primary: string,
  cluster: Cluster | null,
  laggards: string[] = [],
): Model {
  const standbys = (cluster?.nodes ?? []).flatMap(({ name, address, online, role, dataStatus }) =>
    online &&
    role === 'Unpromoted' &&
    dataStatus?.startsWith('STREAMING|') &&
    !laggards.includes(name) &&
    usable(address)
      ? [{ name, address }]
      : [],
  )
  return {
    primary,
    epoch: cluster?.epoch ?? 0,
    databases: config.pgbouncerDatabases,
    standbys,
    readers: standbys.map(({ address }) => address).join(',') || primary,
    settings: {
      postgresPort: config.postgresPort,
      listenAddress: config.pgbouncerListenAddress,
      port: config.pgbouncerPort,
      socketDir: config.pgbouncerSocketDir,
      authType: config.pgbouncerAuthType,
      authFile: config.pgbouncerAuthFile,
      user: config.pgbouncerUser,
      poolSize: config.pgbouncerPoolSize,
      maxClients: config.pgbouncerMaxClients,
    },
  }
}
