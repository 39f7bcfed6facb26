import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { help } from '../lib/cli.ts'
import { type ScriptName, scripts } from '../lib/options.ts'

// After a change that is meant: UPDATE_FIXTURES=1 node --import tsx test/help.test.ts
for (const script of Object.keys(scripts) as ScriptName[]) {
  test(`${script} --help is as it was`, () => {
    const file = new URL(`fixtures/help-${script}.txt`, import.meta.url)
    if (process.env.UPDATE_FIXTURES) writeFileSync(file, help(script))
    assert.fixture(help(script), readFileSync(file, 'utf8'))
  })
}

test.run()
