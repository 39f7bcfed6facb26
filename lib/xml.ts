import { XMLParser } from 'fast-xml-parser'
import { Failed, messageOf } from './errors.ts'

/** One element: its attributes as strings, its children by name, always as lists. */
export interface Element {
  attributes: Record<string, string>
  children: Record<string, Element[]>
}

const parser = new XMLParser({
  ignoreAttributes: false,
  attributesGroupName: '@',
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false, // node id 0003 is no number, and a WAL position neither
  trimValues: false,
  htmlEntities: true,
  ignoreDeclaration: true,
  ignorePiTags: true,
  isArray: (_name, _path, _leaf, isAttribute) => !isAttribute,
})

type Raw = Record<string, unknown> & { '@'?: Record<string, string> }

function element(raw: Raw | string): Element {
  if (typeof raw === 'string') return { attributes: {}, children: {} }
  const children: Record<string, Element[]> = {}
  for (const [name, value] of Object.entries(raw)) {
    if (name !== '@' && name !== '#text' && Array.isArray(value)) children[name] = value.map(element)
  }
  const group = raw['@'] as Record<string, string> | [Record<string, string>] | undefined
  return { attributes: { ...(Array.isArray(group) ? group[0] : group) }, children }
}

/**
 * Reads what Pacemaker's tools print. Throws `Failed` for anything that is not one well-formed `root` element;
 * the parser itself would take an error message for an empty document.
 */
export function parseXml(text: string, root: string): Element {
  const say = (why: string) =>
    new Failed(`no ${root} in what Pacemaker printed: ${why}: ${text.slice(0, 80).trim()}`)
  // No document of ours has one; refusing it closes the whole class of entity attacks.
  if (text.includes('<!DOCTYPE')) throw say('it has a DOCTYPE')
  if (!text.trimEnd().endsWith('>')) throw say('it does not end with a tag')
  let document: Record<string, unknown>
  try {
    document = parser.parse(text, true)
  } catch (cause) {
    throw say(messageOf(cause))
  }
  const [only, ...others] = Object.keys(document).filter((name) => name !== '#text')
  const elements = only === root ? (document[root] as (Raw | string)[]) : []
  if (others.length > 0 || elements.length !== 1 || elements[0] === undefined)
    throw say(`its root is ${only ?? 'missing'}`)
  return element(elements[0])
}

/** All elements at `path` below `from`: `find(cib, 'configuration', 'constraints', 'rsc_location')`. */
export function find(from: Element, ...path: string[]): Element[] {
  return path.reduce<Element[]>((level, name) => level.flatMap((e) => e.children[name] ?? []), [from])
}
