import { Emitter } from './emitter.js';
import { passing } from './errors.js';
import { clone, same } from './json.js';
import { readAll, readOn } from './pages.js';
import { conditionsOf, isClear, matches, mayEnter, said } from './query.js';
import { Refill } from './refill.js';
import { Replica } from './replica.js';
import { Window } from './window.js';

/**
 * What a query finds, in order, kept up to date; made by `handle.collection(data)`.
 *
 * Events, for `on(event, listener)`: `change ({added, changed, removed})`, lists of records; `reset` everything was read again;
 * `error (err)` the server does not let this client listen or read; `offline`, `online`, `resumed`.
 *
 * @example
 * const latest = await todos.collection({ done: false, sort: '-created', limit: 20 }).ready();
 * latest.on('change', () => show(latest.models));
 */
export class Collection extends Emitter {
  /** The records, in order, not to be changed: another list after each change. @type {any[]} */
  models = [];
  /** How many the query found when it was read last, if it says `count: true`. @type {number | undefined} */
  total = undefined;
  replica = new Replica();
  /** @type {Window | undefined} */
  window = undefined;
  #refill = new Refill(this);
  #idName;
  /** The query. @type {any} */
  #data;
  /** The one that what is shown was read with; undefined before everything was read. @type {{data: any} | undefined} */
  #shown = undefined;
  /** Whether the server took it for a query: then what comes must fit it. */
  #isQuery = false;
  #reading = 0;
  /** Why nothing could be read. @type {any} */
  #error = undefined;
  /** Who waits for a read, and is told why it failed. @type {((err?: any) => void)[]} */
  #waiting = [];

  /**
   * @param {import('./handle.js').Handle} handle
   * @param {Record<string, any>} [data] the query, which begins at the beginning
   * @param {string} [idAttribute] the name of the id in a record
   */
  constructor(handle, data, idAttribute = 'id') {
    super();
    this.handle = handle;
    this.#idName = idAttribute;
    this.#data = checked(data);
    handle.attach(this);
    handle.requery(this);
  }

  /** What is read. @returns {Record<string, any>} */
  get asked() {
    return this.#data === undefined ? {} : { data: this.#data };
  }

  /** What it wants to be told of. @returns {Record<string, any>} */
  get wanted() {
    return conditionsOf(this.#data);
  }

  /** Whether the query finds more records than are shown. */
  get isMore() {
    return this.window?.isMore ?? false;
  }

  /**
   * Wait until the query was read.
   * @returns {Promise<this>} rejects with a `SyncError` when the server does not let this client read, or listen
   */
  async ready() {
    if (this.#error) throw this.#error;
    while (!this.#shown || this.#shown.data !== this.#data) {
      const err = await new Promise((resolve) => this.#waiting.push(resolve));
      if (err) throw err;
    }
    return this;
  }

  /**
   * Show what another query finds, as soon as that was read. If it cannot be read, what is there stays.
   * @param {Record<string, any>} [data] the query; none for everything
   * @returns {this}
   */
  setQuery(data) {
    this.#data = checked(data);
    this.#error = undefined;
    this.handle.requery(this);
    return this;
  }

  /**
   * Show more records, from now on.
   * @param {number} [count] how many; as many as the query's limit by default
   */
  more(count = said(this.#data, 'limit') ?? 0) {
    this.window?.widen(count);
    this.#show();
    this.#refill.ask(true);
  }

  /** Stop following the backend; the records stay as they are. */
  close() {
    this.#reading += 1;
    this.window = undefined;
    this.#refill.stop();
    this.handle.detach(this);
  }

  // Following

  /** @param {import('./handle.js').News[]} list */
  apply(list) {
    this.#take(list.filter((news) => !this.replica.keep(news)), false);
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'listening') this.#refill.ask();
    else if (event === 'error' && !passing(args[0])) this.#fail(args[0]);
    else if (event !== 'reset') this.emit(event, ...args);
  }

  /** A read has ended. */
  release() {
    const { replica } = this;
    this.#take(replica.release(), true);
    if (!replica.reading && replica.overflown) {
      replica.overflown = false;
      this.handle.requery(this);
    } else this.#refill.ask();
    this.handle.released();
  }

  /** @param {any} id @returns {import('./deltas.js').Known | undefined} what is known of a model */
  known(id) {
    const { replica } = this;
    const raw = replica.truth(id);
    const rev = raw === undefined ? replica.rev(id) : replica.at(id);
    return rev === undefined && raw === undefined ? undefined : { rev, raw };
  }

  /** @param {any} _id @param {import('./handle.js').News} news @returns {boolean} whether a model that it does not know may come in by what changed */
  wants(_id, news) {
    if (!this.window) return false;
    return this.#isQuery ? mayEnter(this.#shown?.data, news) : !this.#isTold;
  }

  /** @param {import('./handle.js').News[]} list @param {boolean} again whether a read may have undone what is known */
  #take(list, again) {
    const { replica, window } = this;
    for (const { method, raw, meta } of list) {
      const id = raw?.[this.#idName];
      if (id === undefined || id === null || !window) continue;
      const isNews = replica.accept(id, method === 'delete' ? undefined : clone(raw), meta?.r);
      if (!isNews && !again) continue;
      const truth = replica.truth(id);
      if (truth !== undefined && !this.#isQuery && window.size !== Infinity && !this.#isTold) window.doubt();
      else window.put(id, truth !== undefined && this.#fits(truth, meta?.s) ? truth : undefined);
      if (!window.knows(id)) replica.aside(id);
    }
    this.#show();
    this.#refill.ask();
  }

  /** Whether the server tells it of what its query finds, and of nothing else: then nothing needs to be compared here. */
  get #isTold() {
    const { told } = this.handle;
    return Boolean(told) && same(told, conditionsOf(this.#shown?.data));
  }

  /** @param {any} truth a record @param {string} [stream] that it was told in; what all channels share is told whatever was asked for @returns {boolean} */
  #fits(truth, stream) {
    return !this.#isQuery || (this.#isTold && stream !== '*') || matches(this.#shown?.data, truth);
  }

  /** @returns {{added: any[], changed: any[], removed: any[]}} what is other than before, which is told */
  #show() {
    const before = new Map(this.models.map((model) => [String(model[this.#idName]), model]));
    const ids = this.window?.ids ?? [];
    const models = ids.map((id) => this.replica.truth(id));
    const now = new Set(ids);
    const result = {
      added: models.filter((_, n) => !before.has(ids[n])),
      changed: models.filter((model, n) => before.has(ids[n]) && before.get(ids[n]) !== model),
      removed: [...before].filter(([id]) => !now.has(id)).map(([, model]) => model),
    };
    const isSame = models.length === this.models.length && models.every((model, n) => model === this.models[n]);
    if (this.window && !isSame) {
      this.models = models;
      this.emit('change', result);
    }
    return result;
  }

  // Reading

  /** @param {boolean} renewed */
  async reread(renewed) {
    const turn = (this.#reading += 1);
    const data = this.#data;
    this.replica.restart(renewed);
    this.replica.hold();
    try {
      const parts = await this.#read(data);
      if (turn === this.#reading) this.#renew(parts, data);
    } catch (err) {
      if (turn === this.#reading && !passing(err)) this.#fail(err);
      throw err;
    } finally {
      this.release();
    }
  }

  /** @param {any} data @returns {Promise<import('./pages.js').Part[]>} */
  #read(data) {
    const spec = { method: 'read', model: {}, options: this.asked };
    const { window } = this;
    const isLonger = window && this.#shown?.data === data && window.size !== Infinity;
    return new Promise((resolve, reject) => {
      const done = (/** @type {any} */ err, /** @type {import('./pages.js').Part[]} */ parts) => (err ? reject(err) : resolve(parts));
      if (isLonger) readOn(this.handle, spec, window.size, undefined, done);
      else readAll(this.handle, spec, done);
    });
  }

  /** @param {import('./pages.js').Part[]} parts @param {any} data what they were read with */
  #renew(parts, data) {
    const isFirst = this.#shown === undefined;
    if (this.#shown?.data !== data || !this.window) this.window = new Window(data, () => this.#idName, (id) => this.replica.aside(id));
    this.#shown = { data };
    this.#error = undefined;
    const models = this.filled(parts, undefined);
    this.#isQuery = parts[0].meta?.next !== undefined && isClear(data, models);
    if (!isFirst) this.emit('reset');
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /**
   * @param {import('./pages.js').Part[]} parts
   * @param {string | undefined} cursor where they go on; undefined: they are the beginning
   * @returns {any[]} the records
   */
  filled(parts, cursor) {
    const { replica } = this;
    const window = /** @type {Window} */ (this.window);
    /** @type {[any, any][]} */
    const read = [];
    for (const { result, meta } of parts) {
      for (const [n, model] of (Array.isArray(result) ? result : []).entries()) {
        const id = model?.[this.#idName];
        if (id === undefined || id === null) continue;
        const known = replica.truth(id);
        replica.learn(id, same(known, model) ? known : model, meta?.r?.[n] ?? undefined);
        read.push([id, model]);
      }
    }
    const next = parts.at(-1)?.meta?.next ?? null;
    if (cursor) window.extend(read, next);
    else {
      replica.forget(new Set(read.map(([id]) => String(id))));
      window.begin(read, next);
      this.total = parts[0].meta?.total;
    }
    this.#show();
    return read.map(([, model]) => model);
  }

  /** @param {any} err */
  unfilled(err) {
    this.emit('error', err);
  }

  /** What was to be read cannot be read. @param {any} err */
  #fail(err) {
    if (this.#shown && this.#shown.data !== this.#data) {
      this.#data = this.#shown.data;
      // What was told meanwhile may not have been taken.
      this.handle.requery(this);
    } else if (!this.#shown) this.#error = err;
    for (const resolve of this.#waiting.splice(0)) resolve(err);
    this.emit('error', err);
  }
}

/** @param {any} data @returns {any} a copy, as it travels */
function checked(data) {
  if (said(data, 'cursor') === undefined && !said(data, 'offset')) return data === undefined ? undefined : clone(data);
  throw new TypeError('a live collection begins at the beginning: leave out cursor and offset, and call more() to show more');
}
