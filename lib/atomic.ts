import { mkdir, open, rename, rm, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Replaces `file` as a whole: whoever reads it finds the old text or the new one. It has `mode` from the moment it has a name.
 *
 * `durable`: also after a power cut. Otherwise nobody waits for the disk, and a power cut may leave an empty file until `sync`.
 */
export async function writeAtomically(
  file: string,
  text: string,
  mode: number,
  durable = true,
): Promise<void> {
  await mkdir(dirname(file), { recursive: true })
  const temporary = `${file}.${process.pid}.new`
  try {
    await rm(temporary, { force: true }) // of a process that was killed, and had our number
    const handle = await open(temporary, 'wx', mode)
    try {
      await handle.chmod(mode) // the umask had its say in open()
      await handle.writeFile(text)
      if (durable) await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, file)
  } catch (error) {
    await unlink(temporary).catch(() => {})
    throw error
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
