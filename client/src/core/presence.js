import { Emitter } from './emitter.js';
import { SyncError, passing } from './errors.js';
import { isEnd } from './identity.js';
import { plain } from './json.js';

/**
 * @typedef {object} Member of a channel: a user, however many connections it has
 * @property {string} key tells it from the others of this channel; it says nothing of who it is
 * @property {Record<string, any>} card what the application says of it
 * @property {Record<string, any>} state what it says of itself
 * @property {number} connections 0 while it may be back in a moment
 *
 * @typedef {object} JoinOptions
 * @property {'mark' | 'leave' | 'stay'} [hidden] what becomes of it while nobody sees the page: its state has `hidden: true`, or
 *   it is not present; `stay` by default
 *
 * @typedef {(options: Record<string, any> | null, answer: (...args: any[]) => void) => void} Ask sends to the server
 */

/** Milliseconds from one change of the own state to the next: the server tells no more than ten in a second. */
const CHANGE = 100;

/** Milliseconds until what has no answer is asked again. */
const PATIENCE = 8000;

const RETRY = 1000;

const HIDDEN = ['mark', 'leave', 'stay'];

const isHidden = () => /** @type {any} */ (globalThis).document?.visibilityState === 'hidden';

/**
 * Who is present in a channel, kept current while this client is. Nobody sees who is there without being seen: it is empty until
 * `join`. After a lost connection the client is present again by itself. Made by `handle.presence`.
 *
 * Events: `add (member)`, `change (member)`, `remove (member)`; `update` after each of them, or several; `error (err)` the server
 * does not let this client be present.
 *
 * @example
 * const { presence } = connection.backend('todos', { channel: 'home' });
 * presence.on('update', () => console.log([...presence].map(({ card }) => card.name)));
 * await presence.join({ typing: false });
 * presence.set({ typing: true });
 */
export class Presence extends Emitter {
  /** The key of the own member; undefined while this client is not present. @type {string | undefined} */
  me = undefined;
  /** Whether it is to be present, also after a lost connection. */
  wanted = false;
  #handle;
  /** @type {Map<string, Member>} */
  #members = new Map();
  /** What the page says, and whether it is seen. @type {Record<string, any>} */
  #state = {};
  #isHidden = false;
  /** @type {'mark' | 'leave' | 'stay'} */
  #whenHidden = 'stay';
  #listens = false;
  #joined = false;
  #epoch = '';
  #seq = 0;
  /** What is asked for and not answered yet. @type {object | undefined} */
  #asking = undefined;
  /** @type {Record<string, any> | undefined} */
  #sent = undefined;
  #nextAt = 0;
  #timers = { change: /** @type {any} */ (undefined), again: /** @type {any} */ (undefined), patience: /** @type {any} */ (undefined) };
  /** Who waits for the answer to a join. @type {{resolve: (self: any) => void, reject: (err: any) => void, timer: any}[]} */
  #waiters = [];

  /** @param {import('./handle.js').Handle} handle */
  constructor(handle) {
    super();
    this.#handle = handle;
  }

  /** How many members there are. */
  get size() {
    return this.#members.size;
  }

  /** @returns {IterableIterator<Member>} */
  [Symbol.iterator]() {
    return this.#members.values();
  }

  /** @param {string} key @returns {Member | undefined} */
  get(key) {
    return this.#members.get(key);
  }

  /**
   * Be present, until `leave`.
   * @param {Record<string, any>} [state] what others see of this client beside its card: an object of at most 1 KiB as JSON
   * @param {JoinOptions} [options]
   * @returns {Promise<this>} resolves when the server has told who else is there; rejects with a {@link SyncError}
   * @throws {TypeError} the state is no object
   */
  join(state = {}, { hidden = 'stay' } = {}) {
    if (!HIDDEN.includes(hidden)) throw new TypeError(`join: hidden is one of ${HIDDEN.join(', ')}, not ${JSON.stringify(hidden)}`);
    this.#state = checked(state);
    this.#whenHidden = hidden;
    this.#isHidden = hidden !== 'stay' && isHidden();
    this.wanted = true;
    this.#watch(hidden !== 'stay');
    const { name, session } = this.#handle;
    const late = new SyncError({ name: 'Timeout', message: `presence in "${name}": the server did not answer in time`, code: 408 });
    const answered = new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(late), session.connection.deadline);
      this.#waiters.push({ resolve, reject, timer });
    });
    // Who does not wait for it is told by the event `error`.
    answered.catch(() => {});
    session.join(this.#handle);
    if (this.#joined) this.#answer();
    else this.#goOn();
    this.#changed();
    return /** @type {Promise<this>} */ (answered);
  }

  /**
   * Say something else: this state takes the place of the one before. At most ten are sent in a second.
   * @param {Record<string, any>} state
   * @throws {TypeError} it is no object
   */
  set(state) {
    this.#state = checked(state);
    this.#changed();
  }

  /** Be present no more, and see nobody any more. */
  leave() {
    this.#watch(false);
    this.#withdraw();
    this.wanted = false;
    this.#take(new Map());
    this.#answer(new SyncError({ name: 'Unavailable', message: 'the presence was left', code: 503 }));
    this.#handle.rest();
  }

  // The connection

  /** The server has answered a listen. @param {boolean} isPresent what it has said of this client */
  listened(isPresent) {
    this.#listens = true;
    this.#joined &&= isPresent;
    this.#goOn();
  }

  /** The connection is gone, or the channel was left. The members stay as they were told last. */
  offline() {
    this.#listens = false;
    this.#forget();
  }

  /** The identity of this client has ended, and it will have another one: then it listens again. */
  paused() {
    this.#forget();
  }

  /** The client may not listen. @param {SyncError} err */
  refused(err) {
    this.offline();
    if (this.wanted) this.#end(err);
  }

  /** A `presence` event. @param {any} news */
  told(news) {
    if (news === null) {
      this.#joined = false;
      this.#later(Math.random() * this.#handle.session.connection.jitter);
      return;
    }
    if (!this.#joined) return;
    const { epoch, seq, joined = [], changed = [], left = [] } = news;
    if (epoch === this.#epoch && seq === this.#seq + 1) {
      this.#seq = seq;
      const members = new Map(this.#members);
      for (const key of left) members.delete(key);
      for (const member of [...joined, ...changed]) members.set(member.key, member);
      this.#take(members);
    } else if (epoch !== this.#epoch || seq > this.#seq) {
      this.#request({ members: true });
    }
  }

  // Asking

  get #own() {
    return this.#isHidden && this.#whenHidden === 'mark' ? { ...this.#state, hidden: true } : this.#state;
  }

  get #isAway() {
    return !this.wanted || (this.#isHidden && this.#whenHidden === 'leave');
  }

  #goOn() {
    if (this.#isAway || !this.#listens || this.#joined || this.#asking) return;
    this.#sent = this.#own;
    this.#request({ state: this.#sent, members: true });
  }

  /** Ask for the list of members, once at a time. @param {Record<string, any>} options */
  #request(options) {
    if (this.#asking) return;
    const asking = {};
    this.#asking = asking;
    this.#timers.patience = setTimeout(() => {
      if (this.#asking !== asking) return;
      this.#asking = undefined;
      this.#request(options);
    }, PATIENCE);
    this.#handle.session.ask(this.#handle, options, (err, reply) => {
      if (this.#asking !== asking) return;
      clearTimeout(this.#timers.patience);
      this.#asking = undefined;
      if (err || !reply) this.#failed(new SyncError(err?.error ?? { message: String(err) }));
      else this.#answered(reply);
    });
  }

  /** @param {{epoch: string, seq: number, me: string, members?: Member[]}} reply */
  #answered({ epoch, seq, me, members = [] }) {
    this.#joined = true;
    this.#epoch = epoch;
    this.#seq = seq;
    this.me = me;
    this.#nextAt = performance.now() + CHANGE;
    this.#take(new Map(members.map((member) => [member.key, member])));
    this.#answer();
    this.#changed();
  }

  /** @param {SyncError} err */
  #failed(err) {
    this.#joined = false;
    if (passing(err)) this.#later(Math.max(RETRY, 1000 * (Number(/** @type {any} */ (err).retry_after) || 0)));
    else this.#end(err);
  }

  /** @param {SyncError} err */
  #end(err) {
    // Once it has said again who it is, it listens, and is present.
    if (!isEnd(err)) {
      this.#watch(false);
      this.wanted = false;
    }
    this.me = undefined;
    this.#take(new Map());
    this.#answer(err);
    this.emit('error', err);
  }

  /** @param {SyncError} [err] what keeps this client out; none when it is present */
  #answer(err) {
    for (const { resolve, reject, timer } of this.#waiters.splice(0)) {
      clearTimeout(timer);
      if (err) reject(err);
      else resolve(this);
    }
  }

  /** @param {number} pause milliseconds until it joins again */
  #later(pause) {
    this.#timers.again ??= setTimeout(() => {
      this.#timers.again = undefined;
      this.#goOn();
    }, pause);
  }

  #changed() {
    if (!this.#joined || this.#timers.change || this.#own === this.#sent) return;
    this.#timers.change = setTimeout(() => {
      this.#timers.change = undefined;
      if (!this.#joined || this.#isAway) return;
      this.#sent = this.#own;
      this.#nextAt = performance.now() + CHANGE;
      this.#handle.session.ask(this.#handle, { state: this.#sent }, (err) => {
        if (err) this.emit('error', new SyncError(err.error ?? { message: String(err) }));
      });
    }, Math.max(0, this.#nextAt - performance.now()));
  }

  /** Be present no more, for now. */
  #withdraw() {
    const isKnown = this.#joined || this.#asking;
    this.#forget();
    if (isKnown && this.#listens) this.#handle.session.ask(this.#handle, null, () => {});
  }

  #forget() {
    this.#joined = false;
    this.#asking = this.#sent = undefined;
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = { change: undefined, again: undefined, patience: undefined };
  }

  // Hidden pages

  /** @param {boolean} watches */
  #watch(watches) {
    const { document } = /** @type {any} */ (globalThis);
    if (watches) document?.addEventListener('visibilitychange', this.#seen);
    else document?.removeEventListener('visibilitychange', this.#seen);
  }

  #seen = () => {
    this.#isHidden = isHidden();
    if (this.#whenHidden === 'mark') this.#changed();
    else if (this.#isHidden) this.#withdraw();
    else this.#goOn();
  };

  // Members

  /** @param {Map<string, Member>} members */
  #take(members) {
    const before = this.#members;
    this.#members = members;
    if (!this.wanted) this.me = undefined;
    let count = 0;
    const tell = (/** @type {string} */ event, /** @type {Member} */ member) => {
      count += 1;
      this.emit(event, member);
    };
    for (const [key, member] of before) if (!members.has(key)) tell('remove', member);
    for (const [key, member] of members) {
      const known = before.get(key);
      if (!known) tell('add', member);
      else if (JSON.stringify(known) !== JSON.stringify(member)) tell('change', member);
    }
    if (count > 0) this.emit('update');
    const own = members.get(this.me ?? '');
    // Another tab of this user is hidden, and this one is not.
    if (own?.state.hidden === true && this.#whenHidden === 'mark' && !this.#isHidden && this.#joined) {
      this.#sent = undefined;
      this.#changed();
    }
  }
}

/** @param {any} state @returns {Record<string, any>} a copy, as JSON has it */
function checked(state) {
  const copy = plain(state);
  if (typeof copy !== 'object' || copy === null || Array.isArray(copy)) throw new TypeError('the state of a member is an object, such as {typing: true}');
  return copy;
}
