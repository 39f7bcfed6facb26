import { readFileSync } from 'node:fs'
import { errorColour } from './colour.ts'
import { type Config, load, optionsOf, type Parsed, type ScriptName } from './config.ts'
import { Expected, messageOf, Refused } from './errors.ts'
import { log } from './log.ts'
import { type Option, scripts } from './options.ts'

export interface Io {
  stdin: { isTTY?: boolean }
  stdout: { isTTY?: boolean; write(text: string): unknown }
  stderr: { isTTY?: boolean; write(text: string): unknown }
  env: NodeJS.ProcessEnv
}

/** What a script does. A number it resolves to is the exit code; anything else is 0. */
export type Body = (config: Config, argv: Parsed, io: Io) => Promise<unknown>

const commandName = (script: ScriptName): string =>
  script === 'pgcm' ? 'pgcm' : script === 'lock' ? 'pgcm lock' : `pgcm-${script}`

export function version(): string {
  return JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')).version
}

function wrap(text: string, indent: number, width = 100): string {
  const lines = ['']
  for (const word of text.split(' ')) {
    const last = lines.at(-1) ?? ''
    if (last && indent + last.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = last ? `${last} ${word}` : word
  }
  return lines.join(`\n${' '.repeat(indent)}`)
}

function helpOf(option: Option): string {
  const value =
    option.type === 'bool' ? '' : ` ${option.type === 'enum' ? option.choices.join('|') : option.type}`
  const head = `  ${option.alias ? `-${option.alias}, ` : '    '}--${option.name}${value}`
  const shown = Array.isArray(option.default) ? option.default.join(',') : String(option.default)
  const standard = option.type === 'bool' || shown === '' ? '' : ` (default ${shown})`
  return `${head}\n        ${wrap(option.help + standard, 8)}\n`
}

/** The text of `--help`. */
export function help(script: ScriptName): string {
  const { summary, rest } = scripts[script]
  const usage = ['Usage:', commandName(script), '[options]', rest].filter(Boolean).join(' ')
  const sources =
    script === 'playground'
      ? ''
      : '\nEach option may also be an environment variable, PGCM_LOG_LEVEL for --log-level, or a key in the\nTOML file. A flag wins over the environment, the environment over the file.\n'
  const verbs = Object.entries<string>(script === 'playground' ? scripts.playground.verbs : {})
  const explained = verbs.map(([words, what]) => `  ${words.padEnd(20)}${what}\n`).join('')
  const about = explained && `\nVerbs:\n${explained}`
  return `${usage}\n\n${wrap(summary, 0)}\n${about}${sources}\nOptions:\n${optionsOf(script).map(helpOf).join('')}`
}

/** How an error ends the run: what is printed on stderr, and the exit code. */
export function report(script: ScriptName, error: unknown): { text: string; exitCode: number } {
  const name = commandName(script)
  if (error instanceof Expected) {
    const hint = error.hint ? `${errorColour.yellow('hint:')} ${error.hint}\n` : ''
    return { text: `${errorColour.red(`${name}: ${messageOf(error)}`)}\n${hint}`, exitCode: error.exitCode }
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
  return { text: `${errorColour.red(`${name}: this is a bug`)}\n${stack}\n`, exitCode: 70 }
}

/** `pgcm-failover pg03`, without its --to, would go to another node than was meant. */
function refuseWords(script: ScriptName, { words: [word], config }: Parsed): void {
  if (word === undefined || scripts[script].rest) return
  const meant = script === 'failover' && !config.to && word
  throw new Refused(
    `unexpected word ${word}`,
    meant ? `Did you mean --to ${word}?` : `See ${commandName(script)} --help.`,
  )
}

/** `run` without the process around it. Gives the exit code. */
export async function execute(script: ScriptName, words: string[], io: Io, body: Body): Promise<number> {
  try {
    const parsed = load(script, words, io.env)
    if (parsed.config.help) io.stdout.write(help(script))
    else if (parsed.config.version) io.stdout.write(`${commandName(script)} ${version()}\n`)
    else {
      refuseWords(script, parsed)
      log.setLevel(parsed.config.logLevel)
      const code = await body(parsed.config, parsed, io)
      return typeof code === 'number' ? code : 0
    }
    return 0
  } catch (error) {
    const { text, exitCode } = report(script, error)
    io.stderr.write(text)
    return exitCode
  }
}

/** Runs a script from the command line to the exit of the process. */
export async function run(script: ScriptName, body: Body): Promise<void> {
  const bug = (error: unknown) => {
    process.stderr.write(report(script, error).text)
    process.exit(70)
  }
  process.on('uncaughtException', bug)
  process.on('unhandledRejection', bug)
  // `pgcm-status | head`, or a terminal that went away: nobody reads on, which is no reason to stop half-way.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  // Exiting by hand: a closed etcd client alone would keep the process alive.
  process.exit(await execute(script, process.argv.slice(2), process, body))
}
