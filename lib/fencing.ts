/** What fencing has come to on this cluster, as its fencer remembers it. Nothing of it is in the CIB. */
import { sh } from './sh.ts'
import { find, parseXml } from './xml.ts'

export interface FailedFencing {
  target: string
  action: string
  at: string
  reason: string
}

/** The nodes that could not be fenced when that was last tried. */
export function failedFencings(xml: string): FailedFencing[] {
  const events = [
    ...find(parseXml(xml, 'pacemaker-result'), 'list', 'fence_event'),
    ...find(parseXml(xml, 'pacemaker-result'), 'fence_history', 'fence_event'),
  ].map(({ attributes }) => attributes)
  const last = new Map<string, (typeof events)[number]>()
  for (const event of events) {
    const { target = '', completed = '', status } = event
    if (status !== 'pending' && completed > (last.get(target)?.completed ?? '')) last.set(target, event)
  }
  return [...last.values()]
    .filter(({ status }) => status === 'failed')
    .map(({ target = '', action = '', completed = '', 'exit-reason': reason = '' }) => ({
      ...{ target, action, at: completed, reason },
    }))
}

export async function readFencing(timeoutMs: number): Promise<FailedFencing[]> {
  const { stdout } = await sh(['stonith_admin', '--history=*', '--output-as=xml'], { timeoutMs })
  return failedFencings(stdout)
}
