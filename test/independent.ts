/** A second reader of what Pacemaker prints, made of nothing that lib/ has: it says who is primary by the rules of DESIGN. */
interface Node {
  tag: string
  of: Record<string, string>
  in: Node[]
}

const entities: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }
const plain = (text: string) =>
  text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (all, hex, decimal, name) =>
    name ? (entities[name] ?? all) : String.fromCodePoint(hex ? Number.parseInt(hex, 16) : Number(decimal)),
  )

function read(xml: string): Node {
  const root: Node = { tag: '', of: {}, in: [] }
  const open = [root]
  const text = xml.replace(/<!--[\s\S]*?-->|<!\[CDATA\[[\s\S]*?\]\]>|<\?[\s\S]*?\?>/g, '')
  for (const [, close, tag, words, empty] of text.matchAll(
    /<(\/?)([^\s=<>/"']+)((?:\s+[^\s=<>/"']+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*(\/?)>/g,
  )) {
    if (close) {
      open.pop()
      continue
    }
    const pairs = [...(words ?? '').matchAll(/([^\s=<>/"']+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g)]
    const node: Node = {
      tag: tag ?? '',
      of: Object.fromEntries(pairs.map(([, key, a, b]) => [key, plain(a ?? b ?? '')])),
      in: [],
    }
    open.at(-1)?.in.push(node)
    if (!empty) open.push(node)
  }
  return root
}

const at = (node: Node, ...path: string[]): Node[] =>
  path.reduce((level, tag) => level.flatMap((each) => each.in.filter((child) => child.tag === tag)), [node])

export function primaryIn(monitorXml: string, cibXml: string): string | null {
  const monitor = at(read(monitorXml), 'pacemaker-result')[0] as Node
  if (!at(read(cibXml), 'cib')[0]?.of.epoch) return null
  if (at(monitor, 'status')[0]?.of.code !== '0') return null
  if (at(monitor, 'summary', 'current_dc')[0]?.of.with_quorum !== 'true') return null
  const attributesOf = (name: string) =>
    at(monitor, 'node_attributes', 'node')
      .filter((node) => node.of.name === name)
      .flatMap((node) => at(node, 'attribute'))
      .map(({ of: pair }) => pair)
  const names = at(monitor, 'nodes', 'node').map(({ of }) => of.name ?? '')
  const epochs = names.flatMap((name) =>
    attributesOf(name).flatMap(({ name: key, value = '' }) =>
      key === 'Postgresql-epoch' && /^\d{1,10}$/.test(value) ? [[name, Number(value)] as const] : [],
    ),
  )
  const highest = Math.max(0, ...epochs.map(([, epoch]) => epoch))
  const claims = at(monitor, 'nodes', 'node').filter(({ of }) => {
    const name = of.name ?? ''
    const promoted = at(monitor, 'resources', 'clone')
      .filter((clone) => clone.of.id === 'msPostgresql')
      .flatMap((clone) => at(clone, 'resource'))
      .filter((instance) => /^Postgresql(:\d+)?$/.test(instance.of.id ?? ''))
      .filter((instance) => at(instance, 'node').some((on) => on.of.name === name))
    const attributes = attributesOf(name)
    const says = (key: string, value: string) =>
      attributes.some((pair) => pair.name === `Postgresql-${key}` && pair.value === value)
    return (
      of.online === 'true' &&
      of.unclean !== 'true' &&
      promoted.some((instance) => instance.of.role === 'Promoted' || instance.of.role === 'Master') &&
      says('status', 'PRI') &&
      says('data-status', 'LATEST') &&
      Math.max(0, ...epochs.filter(([node]) => node === name).map(([, epoch]) => epoch)) === highest
    )
  })
  return claims.length === 1 ? (claims[0]?.of.name ?? null) : null
}
