import { test } from 'uvu'
import { moveInside, play } from './rejoin/inside.ts'

moveInside(import.meta.url)
const { backups } = await import('./rejoin/kills.ts')
play(backups, 'killing pgcm-rejoin in the base backup')

test.run()
