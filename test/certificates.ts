import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sh } from '../lib/sh.ts'
import type { Tls } from '../lib/tls.ts'

/** Makes a CA and certificates for the given names, all for localhost, and removes their files again. */
export async function certificates(...names: string[]): Promise<Record<string, Tls>> {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-tls-'))
  const openssl = (...words: string[]) => sh(['openssl', ...words])
  const file = (name: string) => join(dir, name)
  const pair = (name: string) => [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-keyout',
    file(`${name}.key`),
  ]
  try {
    await openssl('req', '-x509', ...pair('ca'), '-out', file('ca.crt'), '-subj', '/CN=test CA', '-days', '2')
    const made = names.map(async (name) => {
      const ext = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
      const ca = ['-CA', file('ca.crt'), '-CAkey', file('ca.key')]
      await openssl(
        'req',
        '-x509',
        ...pair(name),
        ...ca,
        '-out',
        file(`${name}.crt`),
        '-subj',
        `/CN=${name}`,
        ...ext,
        '-days',
        '2',
      )
      const read = (suffix: string) => readFileSync(file(suffix))
      return [name, { ca: read('ca.crt'), cert: read(`${name}.crt`), key: read(`${name}.key`) }] as const
    })
    return Object.fromEntries(await Promise.all(made))
  } finally {
    rmSync(dir, { recursive: true })
  }
}
