import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Failed } from '../lib/errors.ts'
import { log } from '../lib/log.ts'
import { type Clock, keeper, type Valve } from '../lib/pausekeeper.ts'
import { sleep, until } from '../lib/wait.ts'

log.setLevel('error')
const never = new AbortController().signal
const ask = { timeoutMs: 1000, expiryMs: 10_000, owner: 'a', signal: never }

interface World {
  file: string
  did: string[]
  valve: Valve
  clock: Clock & { now: number }
}

/** A PgBouncer that writes down what it is told, a clock that stands still, and a directory of its own. */
async function world(body: (world: World) => Promise<void>, own: Partial<Valve> = {}): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-pause-'))
  const did: string[] = []
  const valve: Valve = {
    pause: async () => void did.push('PAUSE'),
    resume: async () => {
      did.push('RESUME')
      return 7
    },
    ...own,
  }
  const clock = { now: 1000, boot: 'b1', uptime: () => clock.now }
  try {
    await body({ file: join(dir, 'pause.json'), did, valve, clock })
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const soon = (what: string, probe: () => unknown) => until(what, { timeoutMs: 2000, everyMs: 2 }, probe)
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => 'no error',
    (error: Error) => error.message,
  )

test('a pause is on disk before PgBouncer hears of it, and gone after the resume', async () => {
  let onDisk = ''
  await world(async ({ file, valve, clock, did }) => {
    const reading = {
      ...valve,
      pause: async () => {
        onDisk = readFileSync(file, 'utf8')
      },
    }
    const keep = keeper(reading, file, clock)
    const pause = await keep.pause(ask)
    assert.is(Date.parse(pause.expiresAt) - Date.parse(pause.createdAt), 10_000)
    assert.equal(JSON.parse(onDisk).deadline, 11_000)
    assert.is(keep.current()?.owner, 'a')
    await keep.resume('a')
    assert.equal([did, existsSync(file), keep.current()], [['RESUME'], false, null])
  })
})

test('it ends by itself', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause({ ...ask, expiryMs: 20 })
    clock.now += 20
    await soon('it has resumed', () => did.includes('RESUME'))
    await keep.idle()
    assert.equal([did, existsSync(file)], [['PAUSE', 'RESUME'], false])
  })
})

test('it ends by itself although the timer comes before its time', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause({ ...ask, expiryMs: 20 })
    let looks = 0
    const { now } = clock
    clock.uptime = () => (looks++ === 0 ? now + 19 : now + 20)
    await soon('it has resumed', () => did.includes('RESUME'))
  })
})

test('a resume cancels the expiry: it cannot lift a later pause', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause({ ...ask, expiryMs: 30 })
    await keep.resume('a')
    await keep.pause({ ...ask, expiryMs: 60_000 })
    clock.now += 40
    await sleep(60)
    assert.equal(did, ['PAUSE', 'RESUME', 'PAUSE'])
    keep.close()
  })
})

test('a pause again renews the expiry', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause({ ...ask, expiryMs: 30 })
    await keep.pause({ ...ask, expiryMs: 60_000 })
    clock.now += 40
    await sleep(60)
    assert.equal(did, ['PAUSE', 'PAUSE'])
    keep.close()
  })
})

test('only its owner may end it, or somebody without a name', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause(ask)
    await keep.resume('b')
    assert.equal(did, ['PAUSE'])
    await keep.pause({ ...ask, owner: 'b' }) // a is gone, or b had not got the lock
    await keep.resume('a')
    assert.is(keep.current()?.owner, 'b')
    await keep.resume('')
    assert.equal(did, ['PAUSE', 'PAUSE', 'RESUME'])
  })
})

test('a resume that had to wait for its turn does not end the pause of another', async () => {
  const opened = new AbortController()
  const first = [sleep(10_000, opened.signal)]
  await world(
    async ({ file, valve, clock, did }) => {
      const keep = keeper(valve, file, clock)
      const late = [keep.pause(ask), keep.pause({ ...ask, owner: 'b' })]
      await soon('a has begun', () => keep.current()?.owner === 'a')
      const resuming = keep.resume('a')
      opened.abort()
      assert.is(await failure(late[0] as Promise<unknown>), 'the pause was called off')
      await late[1]
      assert.is(await resuming, 0)
      assert.equal([did, keep.current()?.owner], [['RESUME'], 'b'])
      keep.close()
    },
    { pause: () => first.pop() ?? Promise.resolve() },
  )
})

test('a pause that fails is undone, and leaves nothing behind', async () => {
  await world(
    async ({ file, valve, clock, did }) => {
      const keep = keeper(valve, file, clock)
      assert.is(await failure(keep.pause(ask)), 'blocked')
      assert.equal([did, existsSync(file), keep.current()], [['RESUME'], false, null])
    },
    { pause: () => Promise.reject(new Failed('blocked')) },
  )
})

test('where even the undo fails it is tried until it works', async () => {
  let broken = 2
  let resumed = 0
  const resume = async () => {
    if (broken-- > 0) throw new Failed('PgBouncer is down')
    resumed += 1
    return 0
  }
  const silent = process.stderr.write
  process.stderr.write = () => true
  try {
    await world(
      async ({ file, valve, clock }) => {
        const keep = keeper(valve, file, clock)
        assert.is(await failure(keep.pause(ask)), 'blocked')
        await keep.idle()
        assert.equal([resumed, existsSync(file)], [1, false])
      },
      { resume, pause: () => Promise.reject(new Failed('blocked')) },
    )
  } finally {
    process.stderr.write = silent
  }
})

test('a file that cannot be removed after a resume does not keep the pause for ever, nor hides why it failed', async () => {
  const silent = process.stderr.write
  process.stderr.write = () => true
  try {
    let fails = false
    const own = { pause: () => (fails ? Promise.reject(new Failed('blocked')) : Promise.resolve()) }
    await world(async ({ file, valve, clock }) => {
      const keep = keeper(valve, file, clock)
      /** A directory in its place, which no unlink removes. */
      const stuck = () => {
        rmSync(file, { force: true })
        mkdirSync(file)
      }
      const freed = async () => {
        clock.now += 50
        rmdirSync(file)
        await until('it is over', { timeoutMs: 20_000, everyMs: 5 }, () => keep.current() === null)
        await keep.idle()
      }
      await keep.pause({ ...ask, expiryMs: 50 })
      stuck()
      assert.match(await failure(keep.resume('a')), /EISDIR|EPERM/)
      await freed()

      fails = true
      const reading = valve.resume
      valve.resume = async () => {
        stuck()
        valve.resume = reading
        return 0
      }
      assert.is(await failure(keep.pause(ask)), 'blocked')
      await freed()
    }, own)
  } finally {
    process.stderr.write = silent
  }
})

test('a caller that goes away takes its pause along', async () => {
  const gone = new AbortController()
  await world(
    async ({ file, valve, clock, did }) => {
      const keep = keeper(valve, file, clock)
      setTimeout(() => gone.abort(), 10)
      assert.is(await failure(keep.pause({ ...ask, signal: gone.signal })), 'the pause was called off')
      assert.equal([did, keep.current()], [['RESUME'], null])
    },
    { pause: ({ signal }) => sleep(5000, signal) },
  )
})

test('a resume does not wait for a pause that is under way: it ends it', async () => {
  await world(
    async ({ file, valve, clock, did }) => {
      const keep = keeper(valve, file, clock)
      const pausing = failure(keep.pause(ask))
      await soon('it is on disk', () => existsSync(file))
      await keep.resume('a')
      assert.is(await pausing, 'the pause was called off')
      assert.equal([did, keep.current()], [['RESUME', 'RESUME'], null])
    },
    { pause: ({ signal }) => sleep(5000, signal) },
  )
})

test('a restart of the daemon takes the pause over', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const first = keeper(valve, file, clock)
    await first.pause({ ...ask, expiryMs: 50 })
    first.close() // killed
    const second = keeper(valve, file, clock)
    await second.restore()
    assert.equal([second.current()?.owner, did], ['a', ['PAUSE']])
    clock.now += 50
    await soon('it has resumed', () => did.includes('RESUME'))
    await second.idle()
    assert.not(existsSync(file))
  })
})

test('a step of the wall clock moves no expiry', async () => {
  await world(async ({ file, valve, clock }) => {
    const first = keeper(valve, file, clock)
    await first.pause(ask)
    first.close()
    const pause = JSON.parse(readFileSync(file, 'utf8'))
    writeFileSync(file, JSON.stringify({ ...pause, expiresAt: '1970-01-01T00:00:00Z' }))
    const second = keeper(valve, file, clock)
    await second.restore()
    assert.is(second.current()?.deadline, 11_000)
    second.close()
  })
})

test('what is left of an earlier boot, late, or unreadable, is resumed at once', async () => {
  const old = { owner: 'a', createdAt: '', expiresAt: '', deadline: 99_000, boot: 'b1' }
  for (const text of [
    JSON.stringify({ ...old, boot: 'b0' }),
    JSON.stringify({ ...old, deadline: 900 }),
    '',
    '{"dead',
    'null',
  ]) {
    await world(async ({ file, valve, clock, did }) => {
      writeFileSync(file, text)
      const keep = keeper(valve, file, clock)
      await keep.restore()
      await keep.idle()
      assert.equal([did, existsSync(file)], [['RESUME'], false], text)
    })
  }
})

test('no pause, nothing to restore', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.restore()
    await keep.idle()
    assert.equal(did, [])
  })
})

test('a daemon that waits for the end of a pause takes no other, and the pause ends as it would have', async () => {
  await world(async ({ file, valve, clock, did }) => {
    const keep = keeper(valve, file, clock)
    await keep.pause({ ...ask, expiryMs: 20 })
    keep.refuse()
    const error = await keep.pause({ ...ask, expiryMs: 60_000 }).catch((error) => error)
    assert.match(error.message, 'this daemon is being stopped')
    clock.now += 20
    await keep.idle()
    assert.equal([did, existsSync(file)], [['PAUSE', 'RESUME'], false])
  })
})

test.run()
