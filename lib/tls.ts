import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createSecureContext } from 'node:tls'
import type { Config } from './config.ts'
import { messageOf, Refused } from './errors.ts'

export interface Tls {
  ca: Buffer
  cert: Buffer
  key: Buffer
}

function read(file: string, option: string): Buffer {
  try {
    return readFileSync(file)
  } catch (cause) {
    throw new Refused(
      `cannot read ${option}: ${messageOf(cause)}`,
      'The Ansible role makes these files; on another machine copy them there and name them by the options.',
      { cause },
    )
  }
}

type Files = Pick<
  Config,
  'tlsCaFile' | 'tlsCertFile' | 'tlsKeyFile' | 'etcdCaFile' | 'etcdCertFile' | 'etcdKeyFile' | 'insecure'
>

/** As they are, if OpenSSL can do with them: half a file, or another's key, would be a stack trace later. */
function checked(tls: Tls, options: string): Tls {
  try {
    createSecureContext(tls)
    return tls
  } catch (cause) {
    throw new Refused(
      `${options}: ${messageOf(cause)}`,
      'They have to be whole PEM files, and the key that of the certificate.',
      { cause },
    )
  }
}

/** The certificates for the API, or null with `insecure`. Throws `Refused` where one cannot be read or used. */
export function apiTls(config: Files): Tls | null {
  if (config.insecure) return null
  const tls = {
    ca: read(config.tlsCaFile, 'tls-ca-file'),
    cert: read(config.tlsCertFile, 'tls-cert-file'),
    key: read(config.tlsKeyFile, 'tls-key-file'),
  }
  return checked(tls, 'tls-ca-file, tls-cert-file, tls-key-file')
}

/** The certificates for etcd: its own options, or those of the API. */
export function etcdTls(config: Files): Tls {
  const tls = {
    ca: read(config.etcdCaFile || config.tlsCaFile, 'etcd-ca-file'),
    cert: read(config.etcdCertFile || config.tlsCertFile, 'etcd-cert-file'),
    key: read(config.etcdKeyFile || config.tlsKeyFile, 'etcd-key-file'),
  }
  return checked(tls, 'etcd-ca-file, etcd-cert-file, etcd-key-file')
}

/** Who may call our API: the names of the settings, else only this machine's own certificate. */
export function allowedNames(config: Pick<Config, 'apiAllowedNames'>, tls: Tls | null): string[] {
  if (config.apiAllowedNames.length > 0 || !tls) return config.apiAllowedNames
  const own = new X509Certificate(tls.cert).subject.match(/^CN=(.+)$/m)?.[1]
  return own ? [own] : []
}
