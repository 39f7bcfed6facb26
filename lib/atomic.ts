import {
  closeSync,
  fchmodSync,
  fsync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { promisify } from 'node:util'

/**
 * Replaces `file` as a whole: whoever reads it finds the old text or the new one. It has `mode` from the moment it has a name.
 * Small ones: each step is done at once, as one that is handed to another thread waits for the CPU, and clients wait for it.
 *
 * `durable`: also after a power cut. Otherwise nobody waits for the disk, and a power cut may leave an empty file until `sync`.
 */
export async function writeAtomically(
  file: string,
  text: string,
  mode: number,
  durable = true,
): Promise<void> {
  mkdirSync(dirname(file), { recursive: true })
  const temporary = `${file}.${process.pid}.new`
  try {
    rmSync(temporary, { force: true }) // of a process that was killed, and had our number
    const handle = openSync(temporary, 'wx', mode)
    try {
      fchmodSync(handle, mode) // the umask had its say in open()
      writeFileSync(handle, text)
      if (durable) await promisify(fsync)(handle)
    } finally {
      closeSync(handle)
    }
    renameSync(temporary, file)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
}

/** A small file, at once for the same reason; null where there is none that can be read. */
export function readAtOnce(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}

/** Makes what is in a file, or a rename or removal in a directory, survive a power cut. */
export async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
