/**
 * Where a client stands in the streams of one channel: a state machine without input, output or clock.
 *
 * Every input returns the effects it asks for, in order:
 * `{do: 'listen', since, again}` send a listen (`again`: spread it over time, others do the same now);
 * `{do: 'apply', method, model, meta}` tell the collections;
 * `{do: 'ready', first, resumed}` the listen is answered; `{do: 'read', renewed}` history is gone: read everything, then
 * call `complete` (`renewed`: revisions may have begun anew); `{do: 'watch'}` call `overdue` a little later; `{do: 'moved'}` the position changed.
 *
 * @typedef {{s: string, e: string, o: number, k?: number, r?: number, op?: any, m?: string, in?: boolean, n?: number,
 *   b?: number, unset?: string[], append?: Record<string, string>}} Meta
 *   stream, epoch, offset, stamp, revision, operation; of a reply: what others are told has happened, where that is something
 *   else, and, where this client has a view, whether what it wrote is in it; of `at`: how many events of the stream it was told;
 *   of `patch`: the revision that it builds on, the fields that are gone, and what is added to the end of texts
 * @typedef {{do: string, [field: string]: any}} Effect
 * @typedef {{epoch: string, offset: number, stamp?: number, recovered: boolean, events: [string, any, Meta][], d?: string}} StreamReply
 * @typedef {{epoch: string, offset: number, stamp: number, stale: boolean, ahead: Map<number, number>, digest?: string, told: number, void: boolean}} Place
 *   with a view, offsets have gaps: its `digest` belongs to the position, and `told` counts the events since the listen; `void`:
 *   the view has changed since, so that what is read by now may be of another than the position
 * @typedef {[epoch: string, offset: number, stamp?: number, digest?: string]} Position the stamp tells whether it is of the same
 *   history, the digest whether it is of the same view
 */

/** How many events wait for the reply to a listen; past it the place is lost and everything is read again. */
const LIMIT = 10_000;

export class Follower {
  /** Whether the server has answered a listen of this connection. */
  ready = false;
  /** Whether the server speaks version 1; undefined until it has answered. @type {boolean | undefined} */
  positioned = undefined;

  /** Whether one of those answers was no error. */
  #admitted = false;
  #listening = false;
  /** @type {Map<string, Place>} */
  #places = new Map();
  /** @type {{method: string | null, model: any, meta: Meta}[]} */
  #waiting = [];
  /** How many of those came before the listen left: its reply covers them. */
  #covered = 0;
  #overflown = false;
  /** Whether the last answer was a refusal: nothing is asked for until there is a reason to. */
  #isRefused = false;

  /** @param {Record<string, Position>} [since] positions to resume from, by stream */
  constructor(since = {}) {
    for (const [stream, [epoch, offset, stamp, digest]] of Object.entries(since)) this.#place(stream, epoch, offset, stamp, digest);
  }

  /** Positions that everything up to has been applied, by stream. @returns {Record<string, Position>} */
  get since() {
    const fresh = [...this.#places].filter(([, place]) => !place.stale && !place.void);
    return Object.fromEntries(fresh.map(([stream, place]) => [stream, positionOf(place)]));
  }

  /** Whether a listen has no answer yet. */
  get listening() {
    return this.#listening;
  }

  /** Whether nothing has been asked or told yet. */
  get fresh() {
    return !this.#listening && this.#places.size === 0;
  }

  /** Whether everything must be read before the positions hold. */
  get stale() {
    return [...this.#places.values()].some((place) => place.stale);
  }

  /** There is a connection. @returns {Effect[]} */
  connected() {
    this.#listening = true;
    this.#isRefused = false;
    this.#covered = 0;
    return [{ do: 'listen', since: this.since, again: false }];
  }

  /** The connection is gone, and with it what had not been answered. */
  disconnected() {
    this.ready = this.#admitted = this.#listening = this.#overflown = this.#isRefused = false;
    this.#waiting = [];
  }

  /** The server answered the listen with an error; it may answer syncs all the same. */
  refused() {
    this.ready = this.#isRefused = true;
  }

  /** The server has ended that this client listens; it may answer syncs all the same. */
  dismissed() {
    this.#listening = true;
    this.#covered = this.#waiting.length;
    this.refused();
  }

  /** The server has let this client in, whatever it has answered before. @returns {Effect[]} */
  invited() {
    return this.#isRefused ? this.connected() : this.turn();
  }

  /**
   * The server answered the latest listen.
   * @param {{v?: number, streams?: Record<string, StreamReply>}} reply
   * @returns {Effect[]}
   */
  listened(reply) {
    const first = this.positioned === undefined && this.#places.size === 0;
    const again = this.#admitted;
    this.ready = this.#admitted = true;
    this.#listening = this.#isRefused = false;
    this.positioned = reply.v === 1;
    /** @type {Effect[]} */
    const effects = [];
    let resumed = this.positioned && !first;
    let renewed = false;
    for (const [stream, state] of Object.entries(reply.streams ?? {})) {
      const place = this.#places.get(stream);
      for (const event of state.events ?? []) effects.push(...this.#take(...event));
      if (place?.digest !== undefined && state.recovered) place.offset = Math.max(place.offset, state.offset);
      const caughtUp = place && !place.stale && !place.void && state.recovered && place.offset === state.offset;
      if (caughtUp) {
        place.stamp = state.stamp ?? 0;
        place.told = 0;
      }
      if (caughtUp && !this.#overflown) continue;
      // The epoch may be the same and the history another: one that fell back.
      renewed ||= place?.epoch !== state.epoch || !state.recovered;
      this.#place(stream, state.epoch, state.offset, state.stamp, state.d, !first || this.#overflown);
      resumed = false;
    }
    const reset = this.stale;
    const waiting = this.#waiting.slice(this.#covered);
    this.#waiting = [];
    this.#overflown = false;
    for (const { method, model, meta } of waiting) effects.push(...this.#take(method, model, meta));
    this.#covered = this.#waiting.length;
    if (!again || reset) effects.push({ do: 'ready', first, resumed: resumed && !reset });
    if (reset) effects.push({ do: 'read', renewed });
    return [...effects, { do: 'moved' }];
  }

  /**
   * What the listen of another channel on the same connection was told of a stream that this one follows too.
   * @param {string} stream
   * @param {StreamReply} state
   * @returns {Effect[]}
   */
  overheard(stream, state) {
    const place = this.#places.get(stream);
    if (!place || this.#listening) return [];
    const effects = (state.events ?? []).flatMap((event) => this.#take(...event));
    place.told = 0;
    if (place.digest !== state.d) return [...effects, ...this.#again()];
    if (place.digest !== undefined && state.recovered && state.epoch === place.epoch) place.offset = Math.max(place.offset, state.offset);
    const behind = state.epoch !== place.epoch || state.offset > place.offset;
    return behind && !this.#listening ? [...effects, ...this.#again()] : effects;
  }

  /**
   * A `synced` arrived.
   * @param {string} method
   * @param {any} model
   * @param {Meta} [meta] missing from servers that know no positions
   * @returns {Effect[]}
   */
  event(method, model, meta) {
    if (method === 'at') return !meta || this.#listening ? [] : this.#at(meta);
    if (!meta) return [{ do: 'apply', method, model, meta }];
    const place = this.#listening ? undefined : this.#places.get(meta.s);
    if (place) place.told += 1;
    return this.#listening ? this.#wait(method, model, meta) : this.#take(method, model, meta);
  }

  /**
   * The reply to a write of this client told the write's place in the stream: a place that need not come as an event.
   * @param {Meta} meta
   * @returns {Effect[]}
   */
  acked(meta) {
    return this.#listening ? this.#wait(null, null, meta) : this.#take(null, null, meta);
  }

  /**
   * Whether all that was true at a place has been told already: by events, or by reading everything later than that.
   * @param {Meta} meta the place in a reply
   * @param {boolean} retried whether the reply may be that of an earlier attempt, and its epoch a past one
   */
  passed(meta, retried) {
    const place = this.#places.get(meta.s);
    if (!place) return false;
    return meta.e === place.epoch ? meta.o <= place.offset : retried;
  }

  /**
   * Whether a reply says nothing of what this client sees by now: the stream will tell.
   * @param {Meta} meta the place in a reply
   */
  leavesContent(meta) {
    return this.#places.get(meta.s)?.digest !== undefined && meta.in === undefined;
  }

  /** Everything has been read and applied since the effect `read`. @returns {Effect[]} */
  complete() {
    for (const place of this.#places.values()) place.stale = false;
    return [{ do: 'moved' }];
  }

  /** The server says it can no longer tell what was missed, or tells under another view from now on. @returns {Effect[]} */
  gap() {
    for (const place of this.#places.values()) place.void = place.digest !== undefined;
    return this.#listening || !this.ready ? [] : this.#again();
  }

  /** What the server is to tell of is other than what it tells of. @returns {Effect[]} */
  turn() {
    return this.#listening || !this.ready ? [] : this.#again().map((effect) => ({ ...effect, again: false }));
  }

  /** What was told cannot be made use of: everything is to be read again. @returns {Effect[]} */
  lost() {
    for (const place of this.#places.values()) place.stale = true;
    return this.#listening || !this.ready ? [] : this.#again();
  }

  /** Some time after the effect `watch`: what a reply told of should have arrived by now. @returns {Effect[]} */
  overdue() {
    return [...this.#places.values()].some((place) => place.ahead.size > 0) ? this.gap() : [];
  }

  /**
   * @param {string} stream
   * @param {string} epoch
   * @param {number} offset
   * @param {number} [stamp]
   * @param {string} [digest]
   * @param {boolean} [stale]
   */
  #place(stream, epoch, offset, stamp = 0, digest = undefined, stale = false) {
    this.#places.set(stream, { epoch, offset, stamp, stale, ahead: new Map(), digest, told: 0, void: false });
  }

  /**
   * The server says how far a stream has come, of which a view tells a part, and how many events that were.
   * @param {Meta} meta
   * @returns {Effect[]}
   */
  #at(meta) {
    const place = this.#places.get(meta.s);
    if (!place) return [];
    if (meta.e !== place.epoch || meta.n !== place.told) {
      place.void = true; // which one was lost nobody knows
      return this.#again();
    }
    if (meta.o > place.offset) {
      place.offset = meta.o;
      place.stamp = meta.k ?? 0;
    }
    return [{ do: 'moved' }];
  }

  /** @returns {Effect[]} */
  #again() {
    this.#listening = true;
    this.#covered = this.#waiting.length;
    return [{ do: 'listen', since: this.since, again: true }];
  }

  /**
   * @param {string | null} method
   * @param {any} model
   * @param {Meta} meta
   * @returns {Effect[]}
   */
  #wait(method, model, meta) {
    if (this.#waiting.length < LIMIT) this.#waiting.push({ method, model, meta });
    else this.#overflown = true;
    return [];
  }

  /**
   * An event (or, without a method, the mere place of an own write) in its turn, early, late, or again.
   * @param {string | null} method
   * @param {any} model
   * @param {Meta} meta
   * @returns {Effect[]}
   */
  #take(method, model, meta) {
    if (this.#listening) return this.#wait(method, model, meta);
    const place = this.#places.get(meta.s);
    if (!place) return [];
    if (place.digest !== undefined && meta.e === place.epoch) {
      // Where the view has been told all up to, its own events say alone.
      if (method === null || meta.o <= place.offset) return [];
      place.offset = meta.o;
      place.stamp = meta.k ?? 0;
      return [{ do: 'apply', method, model, meta }, { do: 'moved' }];
    }
    const isOld = meta.e === place.epoch && (meta.o <= place.offset || (place.ahead.has(meta.o) && method === null));
    if (isOld) return [];
    if (meta.e === place.epoch && meta.o === place.offset + 1) {
      this.#advance(place, meta.o, meta.k ?? 0);
      const effect = { do: 'moved' };
      return method === null ? [effect] : [{ do: 'apply', method, model, meta }, effect];
    }
    if (method !== null) return [...this.#wait(method, model, meta), ...this.#again()];
    if (meta.e !== place.epoch) return this.#again();
    place.ahead.set(meta.o, meta.k ?? 0);
    return [{ do: 'watch' }];
  }

  /** @param {Place} place @param {number} offset @param {number} stamp */
  #advance(place, offset, stamp) {
    place.ahead.set(offset, stamp);
    for (let next = offset; place.ahead.has(next); next += 1) {
      place.offset = next;
      place.stamp = /** @type {number} */ (place.ahead.get(next));
      place.ahead.delete(next);
    }
  }
}

/** @param {Place} place @returns {Position} what a listen says of it */
function positionOf({ epoch, offset, stamp, digest }) {
  if (digest !== undefined) return [epoch, offset, stamp, digest];
  return stamp ? [epoch, offset, stamp] : [epoch, offset];
}
