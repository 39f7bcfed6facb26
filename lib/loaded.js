/** For the thread in which tsx compiles, when all is loaded: ends its compiler, which comes back for anything more. */
import { stop } from 'esbuild'

stop()
