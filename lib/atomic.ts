import { mkdir, open, rename, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Replaces `file` as a whole: whoever reads it finds the old text or the new one, also after a power cut.
 * It has `mode` from the moment it has a name.
 *
 * `meanwhile` is for what cannot wait for the disk: it finds the new text there, of which a power cut could leave an empty file.
 */
export async function writeAtomically(
  file: string,
  text: string,
  mode: number,
  meanwhile?: () => Promise<void>,
): Promise<void> {
  await mkdir(dirname(file), { recursive: true })
  const temporary = `${file}.${process.pid}.new`
  try {
    const handle = await open(temporary, 'w', mode)
    try {
      await handle.chmod(mode) // the umask had its say in open()
      await handle.writeFile(text)
      if (meanwhile) await rename(temporary, file)
      await meanwhile?.().finally(() => handle.sync())
      if (!meanwhile) await handle.sync()
    } finally {
      await handle.close()
    }
    if (!meanwhile) await rename(temporary, file)
  } catch (error) {
    await unlink(temporary).catch(() => {})
    throw error
  }
}

/** Makes a rename or a removal in `dir` survive a power cut. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
