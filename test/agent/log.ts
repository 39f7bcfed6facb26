/** The log of the programs that the agent has called. */

/** An attribute's name without the resource's; its promotion score is `score`. */
export const shortName = (name: string) =>
  name.replace('master-Postgresql', 'score').replace('Postgresql-', '')

/** A logged command in short: what it changes, or nothing if it only asks. */
export function brief(line: string): string[] {
  const [command = '', ...words] = line.split(' ')
  const after = (flag: string) => words[words.indexOf(flag) + 1] ?? ''
  switch (command) {
    case 'attrd_updater': {
      if (words.includes('-R')) return ['all attributes to the CIB']
      const name = shortName(`${after('-n')}@${after('-N')}`)
      if (words.includes('-D')) return [`${name} withdrawn`]
      const value = words.find((word) => word.startsWith('--update='))?.slice('--update='.length)
      if (value === undefined && !words.includes('-U')) return []
      return [`${name}=${value ?? after('-U')}${words.includes('-p') ? ' private' : ''}`]
    }
    case 'crm_resource':
      return [`cleanup ${after('--node')}`]
    case 'psql':
      return ['ask', 'conninfo', 'streams'].includes(words[0] as string) ? [] : [words[0] as string]
    case 'postgres':
      return ['start']
    case 'HUP':
    case 'INT':
    case 'QUIT':
      return [command]
    default:
      return []
  }
}
