/** The package's entry for bundlers and Node. */
export { SyncError } from './core/errors.js';
