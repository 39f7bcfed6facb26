/** What the pages say is so: their commands exist, their flags are known, quoted code is the code, links lead somewhere. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { options, scripts } from '../lib/options.ts'

const pages = [
  ...readdirSync('.').filter((file) => file.endsWith('.md')),
  ...readdirSync('docs').map((file) => `docs/${file}`),
  ...(existsSync('vagrant/README.md') ? ['vagrant/README.md'] : []),
].filter((file) => file.endsWith('.md'))
const text = Object.fromEntries(pages.map((page) => [page, readFileSync(page, 'utf8')]))
const packageJson = JSON.parse(readFileSync('package.json', 'utf8'))

/** Every piece of code of a page: the lines of its blocks, and what stands between backticks. */
function code(page: string): string[] {
  const source = text[page] as string
  const blocks = [...source.matchAll(/^```[a-z]*\n([\s\S]*?)^```$/gm)].map((match) => match[1] as string)
  const inline = [...source.replace(/^```[\s\S]*?^```$/gm, '').matchAll(/`([^`\n]+)`/g)].map(
    (match) => match[1] as string,
  )
  return [...blocks.flatMap((block) => block.split('\n')), ...inline]
}

/** Flags of a script, by the table that its parser uses. */
const flags = (script: string) =>
  new Set(
    options
      .filter((option) => (option.scripts as readonly string[]).includes(script))
      .map((option) => option.name),
  )

/** The commands of ours in a line: [script, words]. */
function commands(line: string): [string, string[]][] {
  const found: [string, string[]][] = []
  const words = line.replace(/#.*$/, '').split(/\s+/)
  words.forEach((word, index) => {
    const script = /^(?:(?:\.\/)?bin\/|\/usr\/local\/bin\/)?pgcm-([a-z]+)$/.exec(word)?.[1]
    if (script) found.push([script, words.slice(index + 1)])
  })
  return found
}

test('every command of ours exists', () => {
  for (const page of pages)
    for (const line of code(page))
      for (const [script] of commands(line))
        assert.ok(script in scripts && existsSync(`bin/pgcm-${script}`), `${page}: ${line}`)
})

test('every flag is known to its script', () => {
  for (const page of pages)
    for (const line of code(page))
      for (const [script, words] of commands(line)) {
        // `pgcm-playground ssh NODE command --flag`: the flag is the command's.
        const own =
          commands(words.join(' ')).length > 0
            ? words.slice(
                0,
                words.findIndex((w) => /^pgcm-/.test(w)),
              )
            : words
        for (const word of own.filter((word) => word.startsWith('--'))) {
          const name = /^--([a-z-]+)/.exec(word)?.[1] ?? word
          assert.ok(flags(script).has(name as never), `${page}: ${line}: pgcm-${script} has no --${name}`)
        }
      }
})

test('the variables of the Vagrantfile are those of its page, with the same defaults', () => {
  const file = readFileSync('vagrant/Vagrantfile', 'utf8')
  const [comment, read] = [/^# {3}([A-Z_]+)=/gm, /ENV(?:\.fetch\(|\[)'([A-Z_]+)'(?:, '(.*?)')?[\])](?! = )/g]
  const page = text['vagrant/README.md'] as string
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\|/gm)]
  const variables = (matches: Iterable<RegExpMatchArray>) =>
    [...matches].map(([, name, value]) => `${name}=${value ?? ''}`).sort()
  assert.equal(variables(rows), variables(file.matchAll(read)))
  const names = new Set(rows.map(([, name]) => name))
  assert.equal(new Set([...file.matchAll(comment)].map(([, name]) => name)), names)
  for (const [name] of page.matchAll(/\b[A-Z]+_[A-Z_]+\b/g)) assert.ok(names.has(name), name)
})

test('every npm script exists', () => {
  for (const page of pages)
    for (const line of code(page))
      for (const [, name] of line.matchAll(/npm (?:run (?:-s )?)?(test|(?<=run (?:-s )?)[a-z]+)/g))
        assert.ok(packageJson.scripts[name as string], `${page}: ${line}`)
})

test('every file that is run exists', () => {
  for (const page of pages)
    for (const line of code(page))
      for (const [, file] of line.matchAll(/node ((?:test|bench)\/[a-z.]+)/g))
        assert.ok(existsSync(file as string), `${page}: ${line}`)
})

test('quoted code is the code', () => {
  for (const page of pages)
    for (const [, file, block] of (text[page] as string).matchAll(
      /<!-- from (\S+) -->\n+```[a-z]*\n([\s\S]*?)^```$/gm,
    ))
      assert.ok(
        readFileSync(file as string, 'utf8').includes((block as string).trim()),
        `${page} quotes ${file}`,
      )
})

const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replace(/`/g, '')
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .trim()
    .replace(/ /g, '-')

test('no link is dead', () => {
  for (const page of pages)
    for (const [, target] of (text[page] as string).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target as string)) continue
      const [path, fragment] = (target as string).split('#')
      const file = path ? join(dirname(page), path) : page
      assert.ok(existsSync(file), `${page}: ${target}`)
      if (!fragment) continue
      const headings = [...readFileSync(file, 'utf8').matchAll(/^#+ (.*)$/gm)].map((match) =>
        anchor(match[1] as string),
      )
      assert.ok(headings.includes(fragment), `${page}: ${target}`)
    }
})

test('the README stays short, and its first screen shows a run', () => {
  const lines = (text['README.md'] as string).split('\n')
  assert.ok(lines.length <= 120, `${lines.length} lines`)
  assert.ok(lines.slice(0, 10).some((line) => line.startsWith('$ npm run playground')))
})

test.run()
