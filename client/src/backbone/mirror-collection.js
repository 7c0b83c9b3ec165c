import { passing } from '../core/errors.js';
import { readAll, readOn } from '../core/pages.js';
import { isFirstPage, isPaged, mayEnter, said } from '../core/query.js';
import { guarded } from '../core/report.js';
import { Answer } from './answer.js';
import { Asked } from './asked.js';
import { delivering } from './deliver.js';
import { Factory } from './factory.js';
import { homes } from './homes.js';
import { LEAVE, Mirror, REMOTE, destroyed, reassert, unset } from './mirror.js';
import { Rereading } from './rereading.js';
import { complete, idAttributeOf, isPlain, note, outdate, shownBy } from './shown.js';
import { Windowed } from './windowed.js';
import { isLeaving } from './writes.js';

/**
 * Keeps a collection like its channel: created models come in, deleted ones go; an update never adds a model.
 *
 * @typedef {import('./mirror.js').Turn} Turn
 */
export class CollectionMirror extends Mirror {
  /** What it asks for. */
  asked = new Asked(this.handle);
  #factory = new Factory(this);
  #windowed = new Windowed(this, this.#factory);
  /** Models that the page itself took out. @type {WeakSet<object>} */
  taken = new WeakSet();
  /** Whether what comes now is the server's. */
  #receiving = false;

  /** What it wants to be told of. */
  get wanted() {
    return this.asked.wanted;
  }

  /** What it shows of the query, if that asks for its first page. */
  get window() {
    return this.#windowed.window;
  }

  start() {
    // Also of a collection that was there before `attach`.
    Object.setPrototypeOf(this.target._byId, null);
    this.target.on('add', this.#added, this).on('remove', this.#removed, this).on('reset', this.#replaced, this);
    this.#bootstrap(this.target.models);
  }

  stop() {
    this.target.off(null, null, this);
    this.#windowed.stop();
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'error' && !passing(args[0])) this.#revert();
    super.tell(event, ...args);
    if (event === 'listening') this.#windowed.ask();
  }

  /**
   * Show what another query finds, once it was read; what the latest fetch said of order and pages stays.
   * @param {any} query
   * @param {() => void} reverted called if it cannot be read, and the former one holds again
   */
  setQuery(query, reverted) {
    this.asked.change(query, reverted);
    this.handle.requery(this);
  }

  #revert() {
    // What was told meanwhile may not have been taken.
    if (this.asked.revert()) this.handle.requery(this);
  }

  release() {
    super.release();
    this.#windowed.ask();
  }

  /** @param {any} raw */
  findId(raw) {
    const { target } = this;
    const name = idAttributeOf(target);
    const id = target.modelId ? target.modelId(isPlain(target, 'modelId') ? raw : { ...raw }, name) : raw[name];
    if (id !== undefined && id !== null) return id;
    return this.#factory.findId(raw);
  }

  /** @param {any} id */
  shows(id) {
    // What the application makes of a record may have another id.
    return !isPlain(this.target, 'modelId') || Boolean(this.target.get(id));
  }

  /** @param {any} _id @param {import('../core/handle.js').News} news */
  wants(_id, news) {
    // Where the server gives a meaning of its own to the query, it is asked.
    const { asked } = this;
    const { query } = asked;
    if (this.window && query === undefined) return !asked.isTold;
    return query !== undefined && (this.window !== undefined || !isPaged(query)) && mayEnter(query, news);
  }

  /** @param {any} model */
  holds(model) {
    const { target } = this;
    return model === target || model.collection === target || (!model.collection && homes.get(model) === target) || this.#has(model);
  }

  /** @param {Turn[]} turns */
  change(turns) {
    const { target, window } = this;
    /** @type {any[]} */
    const [leaving, gone, items] = [[], [], []];
    for (const { id, method, truth, stream } of window ? turns : []) this.#windowed.put(id, method === 'delete' ? undefined : truth, stream);
    this.#factory.watch(() => {
      for (const turn of turns) guarded(() => this.#decide(turn, { leaving, gone, items }));
    });
    if (leaving.length > 0) guarded(() => target.remove(leaving, REMOTE));
    guarded(() => this.set(items));
    for (const model of gone) this.destroy(model);
    if (window) this.#windowed.arrange(new Map(turns.map(({ id, maker }) => [String(id), maker])));
    for (const { id } of turns) this.forget(id);
    this.#windowed.ask(turns.some(({ maker }) => maker));
  }

  /** How models are added. */
  get adding() {
    return { ...(this.asked.options.sort === false && { sort: false }), ...REMOTE };
  }

  /** @param {Turn} turn @param {{leaving: any[], gone: any[], items: any[]}} lists */
  #decide({ id, method, truth, rev, maker, stream }, { leaving, gone, items }) {
    const model = id === undefined ? undefined : this.target.get(id);
    // What the page itself creates stays, unless the collection has a query of its own.
    const { query, own } = this.asked;
    const stays = query === undefined || (maker && own === undefined);
    const fits = this.window ? this.window.shows(id) : stays || this.asked.matches(truth, stream);
    // What enters a list enters it by any change, but nothing enters a page; what enters a window is given its place.
    const enters = !this.window && (query === undefined ? method === 'create' : maker || !isPaged(query));
    if (method === 'delete') {
      if (model) gone.push(model);
    } else if (!fits) {
      if (model) leaving.push(model);
    } else if (model) {
      const item = this.merging(model, truth, rev);
      if (item) items.push(item);
    } else if (enters && !this.isLeaving(id, maker)) {
      const added = maker ?? this.#factory.make(truth, rev);
      if (added) items.push(added);
    }
  }

  /** @param {any} id @param {any} maker */
  isLeaving(id, maker) {
    if (maker && isLeaving(maker)) return true;
    return [...this.pending].some(({ method, model }) => method === 'delete' && model.id === id);
  }

  /** @param {any} model @param {any} raw @param {number | undefined} rev @returns {any} what to set so that the model shows it */
  merging(model, raw, rev) {
    const merged = this.merged(model, raw, rev);
    if (!merged) return undefined;
    unset(model, merged.gone);
    merged.attributes[model.idAttribute] = model.id;
    return merged.attributes;
  }

  /** @param {any[]} items models, and attributes of such as are there */
  set(items) {
    if (items.length === 0) return;
    for (const item of items) destroyed.delete(item);
    this.receive(() => {
      this.target.set(items, { add: true, merge: true, remove: false, ...this.adding });
    });
  }

  /** @param {() => void} change that the server's word makes */
  receive(change) {
    const outer = this.#receiving;
    this.#receiving = true;
    try {
      change();
    } finally {
      this.#receiving = outer;
    }
  }

  /** @param {any} id of a model that may not be shown: then it is not remembered for long */
  forget(id) {
    if (id === undefined || this.target.get(id) || this.window?.knows(id)) return;
    for (const { model } of this.pending) if (model.id === id) return;
    this.replica.aside(id);
  }

  // What the page itself does

  /** @param {any} model @param {any} collection */
  #added(model, collection) {
    if (collection !== this.target) return;
    destroyed.delete(model);
    if (!this.#receiving) this.#bootstrap([model]);
  }

  /** @param {any} model @param {any} collection */
  #removed(model, collection) {
    if (collection !== this.target) return;
    homes.set(model, collection);
    if (!this.#receiving) this.taken.add(model);
    if (model.id !== undefined) this.forget(model.id);
  }

  #replaced() {
    if (!this.#receiving) this.#bootstrap(this.target.models);
  }

  /**
   * Models that came with the page are taken for what the server holds, except for their defaults.
   * @param {any[]} models
   */
  #bootstrap(models) {
    for (const model of models) {
      if (model.isNew() || shownBy(model, this.handle)) continue;
      const { defaults } = model;
      const own = typeof defaults === 'function' ? defaults.call(model) : defaults;
      const raw = Object.fromEntries(Object.entries(model.attributes).filter(([key]) => !(key in (own ?? {}))));
      note(model, this.handle, { raw });
    }
  }

  // Its own writes

  /** @param {any} model @param {any} raw */
  settle(model, raw) {
    const id = this.idOf(raw);
    const copy = id === undefined ? undefined : this.target.get(id);
    if (copy && copy !== model) this.target.remove(copy, REMOTE);
  }

  /** @param {any} model @param {string} method @param {boolean} [passed] */
  place(model, method, passed) {
    const { target, asked } = this;
    const truth = shownBy(model, this.handle)?.raw;
    const there = this.#has(model);
    const other = there || method === 'delete' ? undefined : target.get(model.id);
    if (other && other !== model) {
      this.show(other, this.replica.truth(model.id) ?? truth, this.replica.rev(model.id));
      if (this.window) this.#windowed.place(model, this.replica.truth(model.id));
    } else if (method === LEAVE) {
      if (there) target.remove(model, REMOTE);
      this.#windowed.place(model, undefined);
    } else if (method === 'delete' || this.#isGone(model.id, passed)) {
      this.destroy(target.get(model.id) ?? model);
      this.#windowed.place(model, undefined);
    } else if (this.window) {
      const known = this.replica.truth(model.id) ?? truth;
      const isOurs = there || method === 'create' || this.taken.has(model) || model.collection === target;
      if (known !== undefined) this.#windowed.place(model, known, isOurs);
    } else if (method === 'create' && (asked.own === undefined || truth === undefined || asked.matches(truth))) {
      if (!there && !isLeaving(model)) this.receive(() => target.add(model, REMOTE));
    } else if (asked.query === undefined) {
      // A form's model with an id of the page's own making, that the server took.
      if (!there && model.collection === target && !isLeaving(model)) this.receive(() => target.add(model, REMOTE));
    } else if (truth !== undefined) {
      const fits = asked.matches(truth);
      if (there && !fits) target.remove(model, REMOTE);
      else if (!there && fits && !isPaged(asked.query) && !isLeaving(model) && (this.taken.has(model) || model.collection === target)) target.add(model, REMOTE);
    }
  }

  /** @param {any} id @param {boolean} [passed] whether all was told that was true at the answer's place @returns {boolean} */
  #isGone(id, passed) {
    return this.replica.isGone(id) || (Boolean(passed) && this.replica.truth(id) === undefined);
  }

  /** @param {import('./writes.js').Write} write @param {any} err */
  undo({ model, method, places }, err) {
    const { target } = this;
    const unknown = err.name === 'NotFound' && this.replica.truth(model.id) === undefined;
    if (method === 'create' ? model.isNew() : method !== 'delete' && unknown) target.remove(model, REMOTE);
    const index = places.get(this);
    if (method !== 'delete' || model.isNew() || index === undefined || index < 0 || err.name === 'NotFound') return;
    if (this.replica.isGone(model.id) || target.get(model.id)) return;
    destroyed.delete(model);
    const truth = this.replica.truth(model.id);
    if (truth !== undefined) guarded(() => this.show(model, truth, this.replica.rev(model.id)));
    target.add(model, { ...(!target.comparator && { at: Math.min(index, target.length) }), ...REMOTE });
    this.#windowed.arrange(new Map([[String(model.id), model]]));
  }

  /** @param {any} model */
  #has(model) {
    return this.target._byId[model.cid] === model;
  }

  // Reading

  /**
   * The reply to a fetch of the collection.
   * @param {any} response
   * @param {any} options of the fetch
   * @param {any} asked what of them travelled
   * @param {() => void} succeed lets Backbone have it
   * @param {any} [meta] revisions, in the response's order
   */
  received(response, options, asked, succeed, meta) {
    const cursor = said(asked.data, 'cursor');
    const goesOn = this.asked.remember(asked);
    this.asked.settle();
    const isQuery = meta?.next !== undefined && Array.isArray(response);
    this.asked.accept(isQuery, [response]);
    const { target } = this;
    const windowed = this.#windowed;
    const before = this.window;
    windowed.window = undefined;
    let window = /** @type {import('../core/window.js').Window | undefined} */ (undefined);
    if (isQuery && options.remove !== false && isFirstPage(asked.data)) window = windowed.begin(this.asked.options.data);
    else if (isQuery && options.remove === false && goesOn && before?.isNext(cursor)) window = before;
    // Whatever `parse` makes of them.
    const ids = window ? windowed.turn(window, response, meta.next, window === before ? 'grow' : 'begin') : [];
    const creating = [...this.pending].filter(({ method, model }) => method === 'create' && this.#has(model));
    const staying = new Map(creating.map(({ model }) => [model, target.indexOf(model)]));
    const answer = new Answer(this, this.#factory, staying);
    this.receive(() => answer.take(response, Array.isArray(meta?.r) ? meta.r : [], succeed));
    for (const entry of answer.entries.values()) this.#learn(entry);
    for (const model of staying.keys()) if (!this.#has(model)) target.add(model, REMOTE);
    for (const { model } of this.pending) reassert(model, this.handle);
    // Where the application's own `parse` has left something out, the collection is no first page.
    if (window && ids.every((id) => target.get(id) || this.isLeaving(id, undefined))) windowed.show(window, ids, window === before);
    for (const id of before?.known ?? []) this.forget(id);
  }

  /** @param {import('./answer.js').Entry} entry */
  #learn({ raw, rev, model, made }) {
    const id = model ? model.id : this.idOf(raw);
    if (id === undefined || id === null) return;
    this.replica.learn(id, raw, rev);
    const shows = model ?? this.target.get(id);
    if (!shows) return;
    this.#factory.learnName(raw, id, shows.idAttribute);
    destroyed.delete(shows);
    if (made) complete(model);
    if (!model) note(shows, this.handle, { raw, rev });
  }

  /** @param {boolean} renewed */
  async reread(renewed) {
    const { target, replica } = this;
    this.reading += 1;
    const turn = this.reading;
    replica.restart(renewed);
    if (renewed) for (const model of target.models) outdate(model);
    replica.hold();
    try {
      const parts = await this.#read();
      if (turn === this.reading) delivering(() => new Rereading(this, this.#factory, this.#windowed).take(parts));
    } catch (err) {
      if (turn === this.reading && this.asked.isChanging && !passing(err)) this.tell('error', err);
      throw err;
    } finally {
      this.release();
    }
  }

  /** @returns {Promise<import('../core/pages.js').Part[]>} */
  #read() {
    const { sort: _, ...options } = this.asked.options;
    const spec = { method: 'read', model: {}, options };
    return new Promise((resolve, reject) => {
      const done = (/** @type {any} */ err, /** @type {import('../core/pages.js').Part[]} */ parts) => (err ? reject(err) : resolve(parts));
      if (this.window && !this.asked.isChanging) readOn(this.handle, spec, this.window.size, undefined, done);
      else readAll(this.handle, spec, done);
    });
  }

  // What its window wants

  /** @param {any} err */
  unfilled(err) {
    super.tell('error', err);
  }
}
