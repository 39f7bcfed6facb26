interface Options {
  cause?: unknown
}

/** An error the operator can understand: one line, and a hint that says how to cure it. */
export abstract class Expected extends Error {
  abstract readonly exitCode: number
  readonly hint: string | undefined

  constructor(message: string, hint?: string, options?: Options) {
    super(message, options)
    this.name = new.target.name
    this.hint = hint
  }
}

/** Bad input or a precondition that does not hold. Nothing was touched. */
export class Refused extends Expected {
  readonly exitCode = 2
}

/** An address to listen on that cannot be had now; another time it may. */
export class AddressTaken extends Refused {}

/** It did not work, and what had been done was undone. */
export class Failed extends Expected {
  readonly exitCode = 1
}

/** Something could not be undone: a person must act now. */
export class ActNow extends Expected {
  readonly exitCode = 3
}

/** The message of anything that can be thrown, on one line. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0 && error.message === '') {
    return [...new Set(error.errors.map(messageOf))].join('; ')
  }
  const message = error instanceof Error ? error.message || error.name : String(error)
  return message.replace(/\s*\n\s*/g, ' ').trim()
}
