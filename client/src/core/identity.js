import { SyncError } from './errors.js';
import { report } from './report.js';

/** How many milliseconds `getToken` may take. */
const DEADLINE = 10_000;

/** After how many failures in a row those that wait for a token are told. */
const ATTEMPTS = 6;

/** Milliseconds after the first failure, and at most; each is multiplied by a random number from 0.5 to 1. */
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30_000;

/** @param {any} error @returns {boolean} whether the server says that the identity has ended */
export const isEnd = (error) => error?.name === 'Unauthorized' && error.expired === true;

/**
 * The token of a connection: kept for whatever is joined later, told to the server anew before it ends, and after.
 *
 * @typedef {import('./renewal.js').Renewal} Renewal
 *
 * @typedef {object} Place what a token is used for
 * @property {() => Renewal[]} renewals of the backends
 * @property {() => boolean} isOpen whether there is a connection
 * @property {() => (() => boolean)} moment returns a function that says whether it is the same connection yet
 */
export class Identity {
  #place;
  /** @type {(() => any) | undefined} */
  #getToken = undefined;
  /** What `connect` was given as `auth`. @type {any} */
  #base = undefined;
  /** @type {string | undefined} */
  #token = undefined;
  /** The latest token that is known to have ended. @type {string | undefined} */
  #dead = undefined;
  /** When the token ends, by the clock of the page. */
  #ends = Infinity;
  #failures = 0;
  /** Whatever began in an earlier turn is void. */
  #turn = 0;
  /** @type {Promise<void> | null} */
  #renewing = null;
  #wake = () => {};
  #halt = () => {};
  /** The latest `authenticate`. @type {Promise<any>} */
  #last = Promise.resolve();
  /** What sockets were joined with. @type {WeakMap<object, string | undefined>} */
  #used = new WeakMap();

  /** @param {Place} place */
  constructor(place) {
    this.#place = place;
  }

  /**
   * Somebody connects.
   * @param {any} auth what Socket.IO sends when it joins a namespace: an object, or a function that is given a callback
   * @param {(() => any) | undefined} getToken returns a token, or a promise of one
   * @throws {TypeError} it is no function
   */
  begin(auth, getToken) {
    if (getToken !== undefined && typeof getToken !== 'function') {
      throw new TypeError(`getToken must be a function that returns a token, not ${JSON.stringify(getToken)}`);
    }
    this.stop();
    this.#getToken = getToken;
    this.#base = auth;
    this.#token = typeof auth?.token === 'string' ? auth.token : undefined;
    this.#dead = undefined;
    this.#ends = Infinity;
  }

  /** Ask for no token any more. */
  stop() {
    this.#turn += 1;
    this.#failures = 0;
    this.#renewing = null;
    this.#wake();
    this.#halt();
  }

  /** Whether a token that has ended can be replaced: there is `getToken`, and it has not failed too often. */
  get isRenewable() {
    return this.#getToken !== undefined && this.#failures < ATTEMPTS;
  }

  get #hasEnded() {
    return (this.#token !== undefined && this.#token === this.#dead) || Date.now() >= this.#ends;
  }

  /** Whether sockets are given what `auth` says, not what `connect` was called with. */
  get isNeeded() {
    return this.#getToken !== undefined || this.#token !== this.#base?.token;
  }

  /** What Socket.IO takes as `auth`: a function that it calls, as the socket's own, each time that it joins a namespace. */
  get auth() {
    const give = (/** @type {any} */ socket, /** @type {(auth: any) => void} */ callback) => void this.#give(socket, callback);
    /** @this {any} @param {(auth: any) => void} callback */
    return function auth(callback) {
      give(this, callback);
    };
  }

  /** @param {any} socket @returns {string | undefined} the token that it was joined with */
  tokenOf(socket) {
    return this.#used.has(socket) ? this.#used.get(socket) : this.#token;
  }

  /** @param {any} socket @param {(auth: any) => void} callback */
  async #give(socket, callback) {
    const isSame = this.#place.moment();
    const isWanting = () => this.#getToken && (this.#token === undefined || this.#hasEnded) && isSame();
    while (isWanting()) {
      await this.#last;
      if (isWanting()) await this.#renew();
    }
    const base = await this.#given();
    if (!isSame()) return;
    const isKept = this.#token !== undefined && !(this.#hasEnded && typeof base?.token === 'string');
    const token = isKept ? this.#token : base?.token;
    this.#used.set(socket, token);
    callback(token === undefined ? base : { ...base, token });
  }

  /** @returns {Promise<any>} what the `auth` of `connect` is */
  #given() {
    const auth = this.#base;
    return Promise.resolve(typeof auth === 'function' ? new Promise((resolve) => auth(resolve)) : auth);
  }

  /**
   * The server has said when the identity of a namespace ends.
   * @param {Renewal} renewal
   * @param {number} seconds 0 if it has ended
   */
  told(renewal, seconds) {
    if (renewal.token !== this.#token) return;
    this.#ends = Date.now() + 1000 * seconds;
    if (this.#getToken && seconds > 0) this.#renew();
  }

  /**
   * The identity of a namespace has ended: get a new token.
   * @param {Renewal} renewal
   */
  ended(renewal) {
    if (renewal.token === this.#token && this.#token !== this.#dead) {
      this.#dead = this.#token;
      // Failures until here cost nobody anything.
      this.#failures = 0;
      this.#wake();
    }
    if (this.#getToken) this.#renew();
  }

  /**
   * Say anew who makes the requests.
   * @param {string} token
   * @returns {Promise<void>} rejects with what the server refuses it for; then the token of before is kept
   */
  authenticate(token) {
    if (typeof token !== 'string' || !token) return Promise.reject(new TypeError('authenticate: a token is a string that is not empty'));
    this.stop();
    const turn = this.#turn;
    const offered = this.#last.then(async () => {
      try {
        await this.#offer(token, turn, this.#place.renewals().filter(({ isOnline }) => isOnline));
      } catch (err) {
        if (turn === this.#turn && this.#hasEnded && this.#getToken) this.#renew();
        throw err;
      }
    });
    this.#last = offered.catch(() => {});
    return offered;
  }

  /** One call of `getToken` at a time, whoever needs a token. @returns {Promise<void>} done when there is one, or none will come */
  #renew() {
    if (this.#renewing) return this.#renewing;
    const renewing = this.#run(this.#turn).finally(() => {
      if (this.#renewing === renewing) this.#renewing = null;
    });
    this.#renewing = renewing;
    return renewing;
  }

  /** @param {number} turn */
  async #run(turn) {
    this.#failures = 0;
    const halted = new Promise((resolve) => (this.#halt = () => resolve(null)));
    // Without a connection, whoever joins the next one asks; there may be no network to ask over.
    while (turn === this.#turn && this.#place.isOpen()) {
      const attempt = this.#attempt(turn).then(() => null, (/** @type {any} */ err) => err);
      const error = await Promise.race([attempt, halted]);
      if (turn !== this.#turn) return;
      if (!error) {
        // Who has joined with the token of before meanwhile needs the new one too.
        if (!this.#isWaitedFor) return;
        continue;
      }
      const before = this.#failures;
      this.#failures = error.name === 'Forbidden' ? ATTEMPTS : before + 1;
      const isHopeless = before < ATTEMPTS && this.#failures >= ATTEMPTS && (this.#token === undefined || this.#hasEnded);
      if (isHopeless) for (const renewal of this.#place.renewals()) renewal.giveUp(error);
      await this.#rest();
    }
  }

  /** @returns {Promise<void>} */
  #rest() {
    const pause = Math.min(FIRST_PAUSE * 2 ** (this.#failures - 1), LONGEST_PAUSE) * (0.5 + Math.random() / 2);
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      /** @type {any} */ (timer).unref?.();
      this.#wake = () => (clearTimeout(timer), resolve());
    });
  }

  /** @param {number} turn */
  async #attempt(turn) {
    // Another namespace may have had a new token in the meantime, and this one not yet.
    const token = this.#isWaitedFor ? /** @type {string} */ (this.#token) : await this.#ask();
    if (turn === this.#turn) await this.#offer(token, turn, this.#behind(token));
  }

  /** @returns {Promise<string>} what `getToken` gives, if that may be used */
  async #ask() {
    const get = /** @type {() => any} */ (this.#getToken);
    const turn = this.#turn;
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`getToken took longer than ${DEADLINE / 1000} s`)), DEADLINE);
        /** @type {any} */ (timer).unref?.();
      });
      const token = await Promise.race([new Promise((resolve) => resolve(get())), late]);
      // Its value is nobody's to see.
      if (typeof token !== 'string' || !token) throw new TypeError('getToken must return a token: a string that is not empty');
      if (token === this.#dead) throw new Error('getToken returned the token that has ended; it must get a new one');
      if (token !== this.#token || this.#behind(token).length > 0) return token;
    } catch (err) {
      if (turn === this.#turn) report(err);
      throw new SyncError({ name: 'Unauthorized', message: 'the token has ended, and getToken gave no new one', code: 401, expired: true });
    } finally {
      clearTimeout(timer);
    }
    throw new SyncError({ name: 'Unauthorized', message: 'getToken returned the token that is about to end', code: 401 });
  }

  /** Whether the token holds, and a backend waits for it. */
  get #isWaitedFor() {
    return this.#token !== undefined && !this.#hasEnded && this.#behind(this.#token).some(({ isHeld }) => isHeld);
  }

  /** @param {string} token @returns {Renewal[]} the backends whose connection has another one */
  #behind(token) {
    return this.#place.renewals().filter((renewal) => renewal.isOnline && renewal.token !== token);
  }

  /**
   * Tell backends of a token; where there is no connection, it is kept for the next.
   * @param {string} token
   * @param {number} turn
   * @param {Renewal[]} renewals
   */
  async #offer(token, turn, renewals) {
    const answers = await Promise.all(renewals.map((renewal) => renewal.offer(token)));
    if (turn !== this.#turn) throw new SyncError({ name: 'Dropped', message: 'another token took the place of this one, or the connection was closed', code: 409 });
    const taken = answers.filter((answer) => answer && !answer.error);
    const refused = answers.filter((answer) => answer?.error && !(taken.length > 0 && answer.isNobodys));
    if (taken.length > 0 || refused.length === 0) {
      this.#token = token;
      this.#ends = Math.min(...taken.map((answer) => answer?.ends ?? Infinity));
      for (const [index, answer] of answers.entries()) if (answer?.error && answer.isNobodys) renewals[index].token = token;
    }
    if (refused.length > 0) {
      const error = (refused.find((answer) => answer?.error?.name === 'Forbidden') ?? refused[0])?.error;
      if (isEnd(error)) this.#dead = token;
      throw error;
    }
    this.#failures = 0;
  }
}
