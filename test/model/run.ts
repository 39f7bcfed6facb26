import { parseArgs } from 'node:util'
import { breadthFirst, type Explored, randomWalks } from './search.ts'
import { initial, type Model, RULES, VARIANT } from './state.ts'

/** `npm run model -- --nodes 5 --epochs 9 --states 10000000`: the model at bounds of your choice. */
const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '3' },
    epochs: { type: 'string', default: '8' },
    records: { type: 'string', default: '3' },
    faults: { type: 'string', default: '2' },
    states: { type: 'string', default: '5000000' },
    depth: { type: 'string', default: '1000' },
    off: { type: 'string', multiple: true, default: [] },
    with: { type: 'string', multiple: true, default: [] },
    walks: { type: 'string' },
    seed: { type: 'string', default: '1' },
    help: { type: 'boolean', default: false },
  },
})

const usage = `test/model/run.ts [--nodes N] [--epochs E] [--records R] [--faults F]
  breadth first:  [--states MAX] [--depth MAX]
  random walks:   --walks STEPS [--depth LENGTH] [--seed S]
  --off RULE (${Object.keys(RULES).join(', ')})
  --with VARIANT[=VALUE] (${Object.keys(VARIANT).join(', ')})`

function model(): Model {
  const rules = { ...RULES }
  for (const name of values.off) {
    if (!(name in rules)) throw new Error(`no such rule: ${name}\n${usage}`)
    rules[name as keyof typeof RULES] = false
  }
  const variant: Record<string, unknown> = { ...VARIANT }
  for (const pair of values.with) {
    const [name = '', value] = pair.split('=')
    if (!(name in variant)) throw new Error(`no such variant: ${name}\n${usage}`)
    variant[name] = value === undefined || value === 'true' ? true : value === 'false' ? false : value
  }
  const [nodes, epochs, records, faults] = [values.nodes, values.epochs, values.records, values.faults].map(
    Number,
  )
  return { nodes, epochs, records, faults, rules, variant } as Model
}

function report(r: Explored): void {
  const how = r.complete ? 'every reachable state' : 'within the bound'
  console.log(`${r.states} states, ${r.depth} deep, ${r.seconds.toFixed(1)} s (${how})`)
  console.log(r.found ? `${r.found.broken}\n  ${r.found.trace.join('\n  ')}` : 'no promise broken')
  process.exitCode = r.found ? 1 : 0
}

if (values.help) console.log(usage)
else {
  const m = model()
  const depth = Number(values.depth)
  if (values.walks) report(randomWalks(m, initial(m), Number(values.seed), depth, Number(values.walks)))
  else report(breadthFirst(m, initial(m), { states: Number(values.states), depth }))
}
