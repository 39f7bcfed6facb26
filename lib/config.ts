import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import minimist from 'minimist'
import { parse as parseToml, TomlError } from 'smol-toml'
import { messageOf, Refused } from './errors.ts'
import { type Config, type Option, options, type ScriptName } from './options.ts'

export type { Config, ScriptName } from './options.ts'

type Scalar = string | number | boolean | string[]

export interface Parsed {
  config: Config
  /** Words that are no options, in order. */
  words: string[]
  /** Where each option's value came from: flag, environment, file or default; by its name. */
  sources: Record<string, 'flag' | 'environment' | 'file' | 'default'>
  /** The file that was read, and the start of its SHA-256; empty when there is none. */
  file: string
  fileHash: string
}

const table: readonly Option[] = options
export const camel = (name: string): string =>
  name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
export const envName = (name: string): string => `PGCM_${name.toUpperCase().replaceAll('-', '_')}`
export const optionsOf = (script: ScriptName): Option[] => table.filter((o) => o.scripts.includes(script))

const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 } as const

/** Milliseconds of `1m30s`, `1.5s`, `250ms`; undefined when it is no duration. */
export function duration(text: string): number | undefined {
  if (text === '0') return 0
  if (!/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(text)) return undefined
  let sum = 0
  for (const [, value, unit] of text.matchAll(/([\d.]+)(ms|s|m|h)/g)) {
    sum += Number(value) * units[unit as keyof typeof units]
  }
  return Math.round(sum)
}

/** `90000` -> `1m30s`. */
export function formatDuration(ms: number): string {
  if (ms % 1000 !== 0) return ms < 1000 ? `${ms}ms` : `${ms / 1000}s`
  const parts = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, (ms / 1000) % 60]
  return parts.map((n, i) => (n ? `${n}${'hms'[i]}` : '')).join('') || '0s'
}

function convert(option: Option, raw: unknown, where: string): Scalar {
  const shown = option.secret ? 'its value' : JSON.stringify(raw)
  const wrong = (wanted: string) => new Refused(`${where}: ${shown} is not ${wanted}`)
  switch (option.type) {
    case 'string':
      if (typeof raw !== 'string') throw wrong('a string')
      return raw
    case 'enum':
      if (typeof raw !== 'string' || !option.choices.includes(raw))
        throw wrong(`one of ${option.choices.join(', ')}`)
      return raw
    case 'bool':
      if (raw === true || raw === 'true') return true
      if (raw === false || raw === 'false') return false
      throw wrong('true or false')
    case 'list': {
      const items = typeof raw === 'string' ? raw.split(',') : raw
      if (!Array.isArray(items) || items.some((item) => typeof item !== 'string'))
        throw wrong('a list of strings')
      return items.map((item: string) => item.trim()).filter((item) => item !== '')
    }
    case 'int': {
      const { min = 0, max = Number.MAX_SAFE_INTEGER } = option
      const value = typeof raw === 'string' && /^-?\d+$/.test(raw) ? Number(raw) : raw
      if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
        throw wrong(`a whole number from ${min} to ${max}`)
      }
      return value
    }
    case 'duration': {
      const value = typeof raw === 'string' ? duration(raw) : undefined
      const min = duration(option.min ?? '0') ?? 0
      if (value === undefined) throw wrong('a duration such as 500ms, 5s or 1m30s')
      if (value < min || value > 2 ** 31 - 1)
        throw wrong(`a duration of at least ${option.min ?? '0'} and at most 24 days`)
      return value
    }
  }
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = a[i - 1] === b[j - 1] ? 0 : 1
      next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + change)
    }
    row = next
  }
  return row.at(-1) ?? 0
}

function unknown(what: string, name: string, known: string[]): Refused {
  const near = known.map((k) => ({ k, d: distance(name, k) })).sort((a, b) => a.d - b.d)[0]
  return new Refused(
    `unknown ${what} ${name}`,
    near && near.d <= Math.ceil(name.length / 4) ? `Did you mean ${near.k}?` : undefined,
  )
}

function fromFlags(script: ScriptName, all: string[]): { values: Map<string, Scalar>; words: string[] } {
  const mine = optionsOf(script)
  // `pgcm-playground ssh pg01 ls -l`: the words of the remote command are not ours to read.
  const ssh = script === 'playground' ? all.indexOf('ssh') : -1
  const [argv, verbatim] = ssh < 0 ? [all, []] : [all.slice(0, ssh + 2), all.slice(ssh + 2)]
  const bools = mine.filter((o) => o.type === 'bool').map((o) => o.name)
  const unknowns: string[] = []
  // minimist takes `--yes=no` for true, so a value after a switch is looked at here.
  for (const arg of argv.slice(0, argv.includes('--') ? argv.indexOf('--') : undefined)) {
    if (!arg.startsWith('--') || arg === '--') continue
    // On `--==`, a line break in a name, or `--constructor` minimist itself would break.
    const [, name, value] = arg.match(/^--([^=\s]+)(?:=(.*))?$/s) ?? []
    if (!name) throw new Refused(`unknown option ${JSON.stringify(arg)}`)
    if (name in {}) throw new Refused(`unknown option --${name}`)
    if (value === undefined) continue
    if (bools.includes(name) && value !== 'true' && value !== 'false') {
      throw new Refused(`--${name}: ${JSON.stringify(value)} is not true or false`)
    }
  }
  const parsed = minimist(argv, {
    boolean: bools,
    string: ['_', ...mine.filter((o) => o.type !== 'bool').map((o) => o.name)],
    alias: Object.fromEntries(mine.flatMap((o) => (o.alias ? [[o.name, o.alias]] : []))),
    unknown: (arg) => {
      if (arg.startsWith('-')) unknowns.push(arg)
      return !arg.startsWith('-')
    },
  })
  if (unknowns[0]) {
    const name = unknowns[0].replace(/=.*/s, '')
    throw unknown(
      'option',
      name,
      mine.map((o) => `--${o.name}`),
    )
  }
  const given = new Set(
    argv.filter((arg) => arg.startsWith('-')).map((arg) => arg.replace(/=.*/s, '').replace(/^--?(no-)?/, '')),
  )
  const values = new Map<string, Scalar>()
  for (const option of mine) {
    if (!given.has(option.name) && !(option.alias && given.has(option.alias))) continue
    const raw: unknown = parsed[option.name]
    if (Array.isArray(raw) && option.type !== 'list')
      throw new Refused(`--${option.name} is given more than once`)
    if (raw === undefined || raw === '') throw new Refused(`--${option.name} needs a value`)
    const flat = Array.isArray(raw) ? raw.join(',') : raw
    values.set(option.name, convert(option, flat, `--${option.name}`))
  }
  return { values, words: [...parsed._, ...verbatim] }
}

function fromEnvironment(env: NodeJS.ProcessEnv): Map<string, Scalar> {
  const byName = new Map(table.map((o) => [envName(o.name), o]))
  const values = new Map<string, Scalar>()
  for (const [name, raw] of Object.entries(env)) {
    if (!name.startsWith('PGCM_') || raw === undefined) continue
    const option = byName.get(name)
    if (!option) throw unknown('environment variable', name, [...byName.keys()])
    values.set(option.name, convert(option, raw, name))
  }
  return values
}

function fromFile(file: string, mayBeAbsent: boolean): { values: Map<string, Scalar>; hash: string } {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    if (mayBeAbsent && (cause as NodeJS.ErrnoException).code === 'ENOENT')
      return { values: new Map(), hash: '' }
    throw new Refused(`cannot read the settings: ${messageOf(cause)}`, 'Use sudo, or join group pgcm.', {
      cause,
    })
  }
  let document: Record<string, unknown>
  try {
    document = parseToml(text)
  } catch (cause) {
    // Below its first line stand lines of the file, and maybe the password.
    const what = messageOf(cause instanceof TomlError ? cause.message.split('\n')[0] : cause)
    const where = cause instanceof TomlError ? `, line ${cause.line}, column ${cause.column}` : ''
    throw new Refused(`${file}: ${what}${where}`, undefined, { cause })
  }
  const byName = new Map(table.filter((o) => !o.oneShot).map((o) => [o.name, o]))
  const values = new Map<string, Scalar>()
  for (const [key, raw] of Object.entries(document)) {
    const option = byName.get(key)
    if (!option) throw unknown(`key in ${file}:`, key, [...byName.keys()])
    values.set(key, convert(option, raw, `${file}: ${key}`))
  }
  return { values, hash: createHash('sha256').update(text).digest('hex').slice(0, 12) }
}

/** The settings of one run: flag over environment over file over default. Throws `Refused`. */
export function load(script: ScriptName, argv: string[], env: NodeJS.ProcessEnv): Parsed {
  const flags = fromFlags(script, argv)
  const environment = fromEnvironment(env)
  const chosen = flags.values.get('config-file') ?? environment.get('config-file')
  const file = String(chosen ?? table.find((o) => o.name === 'config-file')?.default)
  // The playground makes clusters and belongs to none; help and version must work with a broken file.
  const wanted = script !== 'playground' && !flags.values.has('help') && !flags.values.has('version')
  const { values, hash } = wanted ? fromFile(file, chosen === undefined) : { values: new Map(), hash: '' }

  const sources: Parsed['sources'] = {}
  const config: Record<string, Scalar> = {}
  for (const option of table) {
    const source = flags.values.has(option.name)
      ? 'flag'
      : environment.has(option.name)
        ? 'environment'
        : values.has(option.name)
          ? 'file'
          : 'default'
    sources[option.name] = source
    config[camel(option.name)] =
      { flag: flags.values, environment, file: values, default: new Map() }[source].get(option.name) ??
      convert(option, option.default, option.name)
  }
  return { config: config as Config, words: flags.words, sources, file: hash && file, fileHash: hash }
}
