/** Random input that is the same every time: TEST_SEED chooses another one. */
import { test } from 'uvu'

export const seed = Number(process.env.TEST_SEED ?? 1)

/** A generator of its own for each seed (mulberry32). */
export function randomOf(start: number) {
  let state = start >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  /** A whole number below n. */
  const below = (n: number): number => Math.floor(next() * n)
  const pick = <T>(list: readonly T[]): T => list[below(list.length)] as T
  return {
    below,
    pick,
    chance: (probability: number) => next() < probability,
    bytes: (n: number) => Buffer.from(Array.from({ length: n }, () => below(256))),
    text: (n: number) =>
      String.fromCharCode(
        ...Array.from({ length: below(n) }, () => pick([below(128), below(128), below(65536)])),
      ),
  }
}
export type Random = ReturnType<typeof randomOf>

const nasty = [
  ...[
    '',
    ' ',
    '\n',
    '\r\n',
    '\0',
    '"',
    "'",
    '=',
    ';',
    '#',
    '[x]',
    '<',
    '>',
    '&',
    '%',
    '\\',
    '\ud800',
    '\uffff',
  ],
  ...[
    'null',
    '__proto__',
    'constructor',
    'toString',
    '-1',
    '1e400',
    '9007199254740993',
    '0x10',
    '10.0.0.1\nx=1',
  ],
  ...[
    'host=6.6.6.6',
    '\nadmin_users=evil',
    '6.6.6.6',
    '::1',
    'fe80::1%eth0',
    '$x',
    '<%= 1 %>',
    '../../etc/passwd',
  ],
]

/** A value as a program, a slip of the hand, or somebody evil might put it there. */
export function value(random: Random, depth = 2): unknown {
  const kind = random.below(depth > 0 ? 9 : 7)
  if (kind === 0) return null
  if (kind === 1) return random.chance(0.5)
  if (kind === 2) return random.pick([0, 1, -1, 3, 7, 2 ** 31, 2 ** 53, 1e300, 0.5, random.below(100)])
  if (kind < 6) return random.pick(nasty)
  if (kind === 6) return random.text(20)
  if (kind === 7) return Array.from({ length: random.below(4) }, () => value(random, depth - 1))
  return Object.fromEntries(
    Array.from({ length: random.below(4) }, () => [random.pick(nasty), value(random, depth - 1)]),
  )
}

/** The same as text. */
export const textOf = (random: Random): string => {
  const found = value(random, 1)
  return typeof found === 'string' ? found : JSON.stringify(found)
}

/** A text that differs in a few places: bits, pieces and words that go, come, double, or change places. */
export function mutate(random: Random, text: string, words: readonly string[] = nasty): string {
  for (let n = 1 + random.below(3); n > 0; n--) {
    const at = random.below(text.length + 1)
    const length = random.pick([1, 1, random.below(20), random.below(300)])
    const piece = text.slice(at, at + length)
    const from = random.below(text.length + 1)
    text = random.pick([
      () => text.slice(0, at) + text.slice(at + length),
      () => text.slice(0, at) + piece + piece + text.slice(at + length),
      () => text.slice(0, at) + random.pick(words) + text.slice(at),
      () => text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at + 1),
      () => text.slice(0, at) + text.slice(from, from + length) + text.slice(at),
      () => (random.chance(0.1) ? text.slice(0, at) : text),
    ])()
  }
  return text
}

/** A test of many cases; the one that fails is named so that it can be had again. */
export function fuzz(
  name: string,
  cases: number,
  body: (random: Random, number: number) => void | Promise<void>,
): void {
  test(name, async () => {
    for (let number = 0; number < cases; number++) {
      try {
        await body(randomOf(Math.imul(seed, 0x9e3779b1) ^ Math.imul(number, 0x85ebca6b)), number)
      } catch (error) {
        const text = error instanceof Error ? error.stack : String(error)
        throw new Error(`TEST_SEED=${seed}, case ${number}: ${text}`)
      }
    }
  })
}
