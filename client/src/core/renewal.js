import { SyncError } from './errors.js';
import { isEnd } from './identity.js';

/** How many milliseconds the server has to answer an `auth`. */
const PATIENCE = 10_000;

/**
 * What a session is asked for here.
 *
 * @typedef {import('./handle.js').Handle} Handle
 *
 * @typedef {object} Errands
 * @property {() => Handle[]} handles
 * @property {(handle: Handle) => void} listen listen again
 * @property {(handle: Handle, error: SyncError) => void} refuse the server does not let this client listen
 * @property {() => void} flush send what waits
 */

/** One backend's part in the renewal of a connection's token: what waits for a new one, and goes on with it. */
export class Renewal {
  /** The token that the present connection goes by. @type {string | undefined} */
  token = undefined;
  /** Whether nothing is sent before there is a new one. */
  isHeld = false;
  /** Those that may not listen. @type {Set<Handle>} */
  #denied = new Set();
  #socket = /** @type {any} */ (null);
  /** Ends the wait for an answer. @type {Set<() => void>} */
  #waits = new Set();
  #identity;
  #errands;

  /**
   * @param {import('./identity.js').Identity} identity of the connection
   * @param {Errands} errands
   */
  constructor(identity, errands) {
    this.#identity = identity;
    this.#errands = errands;
  }

  /** Whether there is a connection. */
  get isOnline() {
    return this.#socket !== null;
  }

  /** @param {any} socket that has joined the namespace */
  connected(socket) {
    this.#socket = socket;
    this.token = this.#identity.tokenOf(socket);
  }

  /** The connection is gone: the next one begins with a token that holds. */
  cut() {
    this.#socket = null;
    this.isHeld = false;
    this.#denied.clear();
    for (const end of this.#waits) end();
  }

  /** @param {any} news what the server says of the end of this client's identity @returns {boolean} whether it has ended */
  told(news) {
    const seconds = news?.expires_in;
    if (typeof seconds !== 'number' || !(seconds >= 0)) return false;
    this.#identity.told(this, seconds);
    if (seconds === 0) this.#end();
    return seconds === 0;
  }

  /**
   * Whether a refusal is none yet: the identity has ended, and a new token will come.
   * @param {SyncError} error
   * @param {string | undefined} token the one that was refused
   */
  awaits(error, token) {
    if (!isEnd(error)) return false;
    // It may have been replaced while the refusal was on its way.
    return token !== this.token || this.#end();
  }

  /** @returns {boolean} whether a new token will come */
  #end() {
    const wasHeld = this.isHeld;
    this.isHeld = true;
    if (!wasHeld) this.#identity.ended(this);
    this.isHeld = this.#identity.isRenewable;
    return this.isHeld;
  }

  /** @param {Handle} handle one that listens as soon as there is a new token */
  deny(handle) {
    this.#denied.add(handle);
    if (!this.isHeld) this.#resume();
  }

  /** @param {Handle} handle one that the server does not let listen: it may with another token */
  refused(handle) {
    this.#denied.add(handle);
  }

  /**
   * Tell the server of a token.
   * @param {string} token
   * @returns {Promise<{error?: SyncError, isNobodys?: boolean, ends?: number} | null>} null if the connection went first; `ends`:
   *   when the identity ends; `isNobodys`: whether the error may be that the backend knows no tokens
   */
  offer(token) {
    const isKnown = this.isHeld || this.#denied.size > 0 || this.#errands.handles().some(({ knownAs }) => typeof knownAs === 'string');
    return new Promise((resolve) => {
      const settle = (/** @type {any} */ outcome) => {
        clearTimeout(timer);
        this.#waits.delete(gone);
        resolve(outcome);
      };
      const gone = () => settle(null);
      this.#waits.add(gone);
      const late = new SyncError({ name: 'Timeout', message: 'the server did not answer in time to a new token', code: 408 });
      const timer = setTimeout(() => settle({ error: late }), PATIENCE);
      this.#socket.emit('auth', { token }, (/** @type {any} */ reply) => {
        if (!this.#waits.has(gone)) return;
        if (reply?.error) {
          const error = new SyncError(reply.error);
          settle({ error, isNobodys: error.name === 'Unauthorized' && !isEnd(error) && !isKnown });
          return;
        }
        this.token = token;
        const seconds = reply?.expires_in;
        settle({ ends: typeof seconds === 'number' ? Date.now() + 1000 * seconds : undefined });
        this.#resume();
      });
    });
  }

  /** There is a new token: what has waited for it goes on. */
  #resume() {
    this.isHeld = false;
    const { handles, listen, flush } = this.#errands;
    const denied = [...this.#denied];
    this.#denied.clear();
    for (const handle of handles()) {
      // The server has not said yet who somebody is that was nobody.
      if (denied.includes(handle) || handle.knownAs === null) listen(handle);
    }
    flush();
  }

  /** There will be no token, as far as one can see: everything is refused. @param {SyncError} error */
  giveUp(error) {
    const wasHeld = this.isHeld;
    this.isHeld = false;
    if (this.isOnline && !wasHeld) return;
    const { handles, refuse, flush } = this.#errands;
    for (const handle of handles()) {
      if (this.#denied.has(handle)) refuse(handle, error);
      else handle.tell('error', error);
    }
    flush();
  }
}
