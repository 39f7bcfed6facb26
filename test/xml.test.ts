import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { find, parseXml } from '../lib/xml.ts'

test('values stay as they are written', () => {
  const { attributes } = parseXml('<cib id="0003" wal="0000000007000090" text=" a&#10;&lt;b "/>', 'cib')
  assert.equal(attributes, { id: '0003', wal: '0000000007000090', text: ' a\n<b ' })
})

test('one child is a list of one', () => {
  const cib = parseXml('<cib><a><b n="1"/></a><a><b n="2"/><b n="3"/></a></cib>', 'cib')
  assert.equal(
    find(cib, 'a', 'b').map(({ attributes }) => attributes.n),
    ['1', '2', '3'],
  )
  assert.equal(find(cib, 'a', 'c'), [])
})

test('what is not one whole document is refused', () => {
  const bad = [
    '',
    ' ',
    'text',
    '<other/>',
    '<cib',
    '<cib>',
    '<cib><b></cib>',
    '<cib/><cib/>',
    '<cib/><x/>',
    '<cib/>text',
  ]
  const attacks = [
    '<!DOCTYPE x [<!ENTITY e "e">]><cib/>',
    '<cib __proto__="1"/>',
    '<cib><__proto__ a="1"/></cib>',
    'warning\n<cib/>',
  ]
  for (const text of [...bad, ...attacks])
    assert.throws(() => parseXml(text, 'cib'), /no cib in what Pacemaker printed/, text)
  assert.is(({} as { a?: string }).a, undefined)
})

test.run()
