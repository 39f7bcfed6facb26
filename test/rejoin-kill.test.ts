import { test } from 'uvu'
import { moveInside, play } from './rejoin/inside.ts'

moveInside(import.meta.url)
const { rewinds } = await import('./rejoin/kills.ts')
play(rewinds, 'killing pgcm-rejoin in pg_rewind')

test.run()
