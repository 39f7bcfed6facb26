/** CIBs for tests: dumps of real clusters, in words that both releases of Pacemaker read, and doctored copies of them. */
import { readFileSync } from 'node:fs'
import { sh } from '../lib/sh.ts'

/** A dump of release 3.0 as 2.1 would have written it; 3.0 reads that too. */
export const fixture = (name: string): string =>
  readFileSync(new URL(`fixtures/${name}.cib.xml`, import.meta.url), 'utf8')
    .replace('validate-with="pacemaker-4.0"', 'validate-with="pacemaker-3.9"')
    .replace(/crm_feature_set="3.20.0"/g, 'crm_feature_set="3.16.1"')
    .replace(/in_ccm="\d+" crmd="\d+"/g, 'in_ccm="true" crmd="online"')

/** Replaces what must be there. */
export function instead(text: string, old: string | RegExp, by: string): string {
  const changed = text.replace(old, by)
  if (changed === text) throw new Error(`not found: ${old}`)
  return changed
}

export const withConstraints = (cib: string, xml: string): string =>
  instead(cib, '<constraints/>', `<constraints>${xml}</constraints>`)

/** What `crm_resource --ban --promoted` and its kin leave behind. */
export const ban = (node: string): string =>
  `<rsc_location id="cli-ban-msPostgresql-on-${node}" rsc="msPostgresql" role="Promoted" node="${node}" score="-INFINITY"/>`

/** GoCardless's set-up of 2017: a second address that follows a standby and keeps the promoted role away from it. */
export function withBackupAddress(cib: string, node: string): string {
  const vip = '<primitive id="BackupVIP" class="ocf" provider="heartbeat" type="IPaddr2"/>'
  const history = ['start_0', 'monitor_5000'].map(
    (operation, i) =>
      `<lrm_rsc_op id="BackupVIP_${operation}" operation_key="BackupVIP_${operation}" operation="${operation.split('_')[0]}" interval="${operation.split('_')[1]}" transition-key="${i}:0:0:x" transition-magic="0:0;${i}:0:0:x" on_node="${node}" call-id="${30 + i}" rc-code="0" op-status="0"/>`,
  )
  const resource = `<lrm_resource id="BackupVIP" class="ocf" provider="heartbeat" type="IPaddr2">${history.join('')}</lrm_resource>`
  const constraints =
    '<rsc_colocation id="backup-not-on-primary" rsc="msPostgresql" rsc-role="Promoted" with-rsc="BackupVIP" score="-INFINITY"/>' +
    `<rsc_location id="backup-at-home" rsc="BackupVIP" node="${node}" score="INFINITY"/>`
  const placed = instead(cib, '<primitive id="fence-', `${vip}<primitive id="fence-`)
  const there = new RegExp(`(uname="${node}" in_ccm[^]*?<lrm_resources>)`)
  return withConstraints(instead(placed, there, `$1${resource}`), constraints)
}

/** Fails by the name of the package where one of Pacemaker's tools is not there. */
export async function needTools(): Promise<void> {
  for (const name of ['crm_simulate', 'crm_attribute', 'cibadmin', 'crm_diff'])
    if ((await sh([name, '--version'], { okCodes: [0, 127] })).code === 127)
      throw new Error(`${name} is not installed: apt install pacemaker-cli-utils`)
}
