import { Chalk, chalkStderr, supportsColor } from 'chalk'

// chalk itself does not know NO_COLOR (https://no-color.org).
const level = (found: number) => (process.env.NO_COLOR ? 0 : found) as 0 | 1 | 2 | 3

/** Colours for stdout. */
export const colour = new Chalk({ level: level(supportsColor ? supportsColor.level : 0) })
/** Colours for stderr. */
export const errorColour = new Chalk({ level: level(chalkStderr.level) })
