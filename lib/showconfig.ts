import { camel, formatDuration, type Parsed } from './config.ts'
import { type Option, options } from './options.ts'

/** The settings as a TOML file that says what each is for: set ones as they are, defaults as comments. */
export function showConfig({ config, sources }: Pick<Parsed, 'config' | 'sources'>): string {
  const rows: readonly Option[] = options
  const blocks = rows
    .filter((option) => !option.oneShot)
    .map((option) => {
      const value = (config as unknown as Record<string, unknown>)[camel(option.name)]
      const source = sources[option.name]
      const text = option.secret && value !== '' ? '"..." # secret' : toml(option, value)
      const from = source === 'default' || source === 'file' ? '' : ` # from the ${source}`
      return `# ${wrap(option.help)}\n# Used by ${option.scripts.join(', ')}.\n${source === 'default' ? '# ' : ''}${option.name} = ${text}${from}\n`
    })
  return blocks.join('\n')
}

function toml(option: Option, value: unknown): string {
  if (option.type === 'duration') return JSON.stringify(formatDuration(value as number))
  return JSON.stringify(value)
}

const wrap = (text: string): string => text.replace(/(.{1,96})(?: |$)/g, '$1\n# ').replace(/\n# $/, '')
