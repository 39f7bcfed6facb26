import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { Refused } from '../lib/errors.ts'
import { allowedNames, apiTls, etcdTls } from '../lib/tls.ts'
import { certificates } from './certificates.ts'

test('files that OpenSSL can do nothing with are refused by the names of their options', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'pgcm-tls-'))
  try {
    const { pg01, pg02 } = await certificates('pg01', 'pg02')
    if (!pg01 || !pg02) throw new Error('no certificates')
    const file = (name: string, text: Buffer | string) => {
      writeFileSync(join(dir, name), text)
      return join(dir, name)
    }
    const files = {
      tlsCaFile: file('ca.crt', pg01.ca),
      tlsCertFile: file('node.crt', pg01.cert),
      tlsKeyFile: file('node.key', pg01.key),
      ...{ etcdCaFile: '', etcdCertFile: '', etcdKeyFile: '', insecure: false },
    }
    assert.equal(apiTls(files), pg01)
    assert.equal(etcdTls(files), pg01)
    assert.equal(allowedNames({ apiAllowedNames: [] }, pg01), ['pg01'])
    const half = file('half.crt', pg01.cert.subarray(0, 100))
    const other = file('other.key', pg02.key)
    for (const [wrong, said] of [
      [{ tlsKeyFile: other }, /^tls-ca-file, tls-cert-file, tls-key-file: .*mismatch/],
      [{ tlsCertFile: half }, /^tls-ca-file, tls-cert-file, tls-key-file: /],
      [{ tlsCertFile: join(dir, 'none') }, /^cannot read tls-cert-file: ENOENT/],
    ] as const) {
      const refusal = (error: Error) => error instanceof Refused && said.test(error.message)
      assert.throws(() => apiTls({ ...files, ...wrong }), refusal)
    }
    assert.throws(() => etcdTls({ ...files, etcdKeyFile: other }), /^etcd-ca-file, .*mismatch/)
    assert.is(apiTls({ ...files, tlsKeyFile: other, insecure: true }), null)
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test.run()
