/** The whole table: what the resource agent does in each state. */

import { whenBroken } from './monitor-broken.ts'
import { ofPrimaries } from './monitor-primary.ts'
import { ofStandbys } from './monitor-standby.ts'
import { whenStopped } from './monitor-stopped.ts'
import { epochs, notifications } from './notify.ts'
import { promotes } from './promote.ts'
import { starts } from './start.ts'
import type { Row } from './states.ts'
import { demotes, stops } from './stop.ts'
import { wrong } from './validate.ts'

export const ROWS: Row[] = [
  ...whenStopped,
  ...ofStandbys,
  ...ofPrimaries,
  ...whenBroken,
  ...starts,
  ...wrong,
  ...stops,
  ...demotes,
  ...promotes,
  ...notifications,
  ...epochs,
]
