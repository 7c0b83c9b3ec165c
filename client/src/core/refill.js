import { passing } from './errors.js';
import { readOn } from './pages.js';

/** After how many milliseconds a read that failed is tried again: at first, and at most, or where the server does not let it read. */
const [PAUSE, LONGEST_PAUSE] = [1000, 30_000];

/**
 * Reads what a window wants, once for many changes.
 *
 * @typedef {object} Windowed what has a window
 * @property {import('./window.js').Window | undefined} window
 * @property {import('./replica.js').Replica} replica
 * @property {import('./handle.js').Handle} handle
 * @property {Record<string, any>} asked the options of its reads
 * @property {(parts: import('./pages.js').Part[], cursor: string | undefined) => void} filled takes what was read, from `cursor` on
 * @property {(err: any) => void} unfilled the server does not let it read
 * @property {() => void} release a read has ended: what it held back is taken, and the window may want more
 */
export class Refill {
  #owner;
  #timer = /** @type {any} */ (undefined);
  #pause = 0;

  /** @param {Windowed} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /**
   * Read, if the window wants something.
   * @param {boolean} [isOwn] whether because of what the page has done itself: of others' writes, others hear as well, and all ask
   *   the server
   */
  ask(isOwn = false) {
    const { window, replica, handle } = this.#owner;
    // Once the connection is back, or the read that goes on has ended, it is asked again.
    if (!window?.wants || replica.reading || !handle.follower.ready) return;
    if (isOwn) this.stop();
    const spread = isOwn ? 0 : Math.random() * handle.session.connection.jitter;
    this.#timer ??= setTimeout(() => this.#read(), this.#pause + spread);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #read() {
    this.#timer = undefined;
    const { window, replica, handle, asked } = this.#owner;
    // Another read may have brought it, or be about to.
    if (!window?.wants || replica.reading || !handle.follower.ready) return;
    const era = replica.hold();
    const { cursor } = window;
    readOn(handle, { method: 'read', model: {}, options: asked }, cursor ? 1 : window.size, cursor, (err, parts) => {
      const isCurrent = this.#owner.window === window && replica.era === era;
      const isRefused = err && !passing(err);
      this.#pause = !err || !isCurrent ? 0 : isRefused ? LONGEST_PAUSE : Math.min(2 * this.#pause || PAUSE, LONGEST_PAUSE);
      if (!err && isCurrent) this.#owner.filled(parts, cursor);
      else if (isRefused && isCurrent) {
        window.doubt();
        this.#owner.unfilled(err);
      }
      this.#owner.release();
    });
  }
}
