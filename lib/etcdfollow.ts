/** Following keys of etcd: a watch, and a poll as its backstop. */
import type { IDuplexStream, IEvent, IWatchRequest, IWatchResponse } from 'etcd3'
import { type Etcd, EtcdDown, found, type Known, type Value } from './etcd.ts'
import { log } from './log.ts'
import { now, sleep } from './wait.ts'

/** What is known with the news of a watch. They may come late, or not in order: older ones than what is known are none. */
export function withNews<K extends string>(
  known: Known<K>,
  news: Pick<IEvent, 'type' | 'kv'>[],
  keyOf: (full: Buffer) => K | undefined,
): Known<K> {
  const next = { values: { ...known.values }, at: { ...known.at } }
  for (const { type, kv } of news) {
    const key = keyOf(kv.key)
    const revision = BigInt(kv.mod_revision)
    if (key === undefined || revision <= next.at[key]) continue
    next.values[key] = type === 'Delete' ? null : found(kv)
    next.at[key] = revision
  }
  return next
}

/** How many times longer the polls are apart while the member of the watch answers them in time. */
const EASY = 3

/**
 * Calls `change` with the keys as they are, at once and after every change, until `signal` aborts.
 * A watch brings the changes; a linearizable read has the last word. It is made whenever a watch begins, and every `pollMs`, or a
 * third as often while the member of the watch has an answer. A member that has none is dead, hangs, or has lost the others: its
 * watch would say nothing either, and is made anew on the next one.
 * `change` is awaited; an error of it ends the following.
 */
export async function followKeys<K extends string>(
  { members, full, look, seen }: Pick<Etcd, 'members' | 'full' | 'look' | 'seen'>,
  keys: readonly K[],
  { pollMs, retryMs, signal }: { pollMs: number; retryMs: number; signal: AbortSignal },
  change: (values: Record<K, Value | null>) => void | Promise<void>,
): Promise<void> {
  const keyOf = (bytes: Buffer) => keys.find((key) => full(key).equals(bytes))
  let hints = 0
  let hintsBefore = 0
  let news: IEvent[] = []
  let known: Known<K> | undefined
  let gap = false
  let everyMs = pollMs
  let wake = new AbortController()
  const hint = (events: IEvent[]) => {
    hints += 1
    news.push(...events)
    gap ||= events.length === 0 // what happened before this watch, nobody has told
    setImmediate(() => wake.abort()) // the keys of one transaction come one by one
  }
  const stop = () => wake.abort()
  signal.addEventListener('abort', stop)
  const watching = (stands: boolean) => {
    seen.watching = stands
    if (stands) return
    everyMs = pollMs
    wake.abort()
  }
  const watch = watcher(members, keys.map(full), { hint, watching }, signal)
  let last: string | undefined
  try {
    while (!signal.aborted) {
      const hintsAtLast = hintsBefore
      hintsBefore = hints
      wake = new AbortController()
      let failed = false
      let due = false
      try {
        const told = news
        news = []
        if (!known || gap || now() - seen.readAt >= everyMs) {
          gap = false
          due = true
          const asked = watch.member()
          const looked = await look(keys, asked)
          known = looked
          const well = seen.watching && looked.by === asked
          if (seen.watching && !well) watch.rotate()
          everyMs = well ? EASY * pollMs : pollMs
          seen.readAt = now()
          log.cleared('etcd.read')
        } else known = withNews(known, told, keyOf)
        const { values } = known
        const text = JSON.stringify(values)
        if (text !== last) {
          // A watch that let a change pass unsaid hangs, or its member is cut off: on to the next one.
          if (due && last !== undefined) setTimeout(() => hints === hintsAtLast && watch.rotate(), 250)
          await change(values)
          last = text
        }
      } catch (error) {
        if (error instanceof EtcdDown) log.trouble('etcd.read', { error })
        else throw error
        gap = true
        everyMs = pollMs
        failed = true
      }
      const pause = failed ? retryMs : Math.max(0, everyMs - (now() - seen.readAt))
      if (hints === hintsBefore) await sleep(pause, wake.signal)
    }
  } finally {
    signal.removeEventListener('abort', stop)
    watch.close()
  }
}

interface Heard {
  /** Called for whatever comes out of the stream: changes, or none when a watch begins. */
  hint: (events: IEvent[]) => void
  /** Called when a watch was accepted, and when it is over. */
  watching: (stands: boolean) => void
}

/** One watch stream on one member at a time. */
function watcher(members: Etcd['members'], keys: Buffer[], { hint, watching }: Heard, signal: AbortSignal) {
  let current: IDuplexStream<IWatchRequest, IWatchResponse> | undefined
  let index = 0
  let failures = 0

  function open(): void {
    const member = members[index % members.length]
    if (signal.aborted || !member) return
    const over = (error?: unknown) => {
      if (signal.aborted || gone) return
      gone = true
      watching(false)
      stream?.cancel()
      index += 1
      failures += 1
      log.debug('etcd.watch', { member: member.name, error })
      if (failures > members.length) log.trouble('etcd.watch', { member: member.name, error })
      sleep(Math.min(200 * failures, 2000), signal).then(open)
    }
    let gone = false
    let stream: typeof current
    member.streams.watchClient.watch().then((opened) => {
      stream = opened
      current = opened
      opened.on('data', (response) => {
        if (gone) return
        if (response.canceled) return over(new Error(`watch cancelled by ${member.name}`))
        failures = 0
        watching(true)
        log.cleared('etcd.watch')
        hint(response.events)
      })
      opened.on('error', over)
      opened.on('end', () => over(new Error('the stream ended')))
      for (const key of keys) opened.write({ create_request: { key } })
    }, over)
  }
  open()
  return {
    /** Its place in `members`. */
    member: () => index % members.length,
    rotate: () => current?.cancel(),
    close: () => current?.cancel(),
  }
}
