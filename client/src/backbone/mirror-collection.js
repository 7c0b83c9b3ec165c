import { passing } from '../core/errors.js';
import { clone, same } from '../core/json.js';
import { joined, readAll, readOn } from '../core/pages.js';
import { combined, conditionsOf, isClear, isFirstPage, isPaged, matches, mayEnter, said, wordsOf } from '../core/query.js';
import { Refill } from '../core/refill.js';
import { guarded } from '../core/report.js';
import { Window } from '../core/window.js';
import { Answer } from './answer.js';
import { arrange } from './arrange.js';
import { delivering } from './deliver.js';
import { Factory } from './factory.js';
import { homes } from './homes.js';
import { LEAVE, Mirror, REMOTE, destroyed, reassert, unset } from './mirror.js';
import { turnPage } from './page.js';
import { complete, idAttributeOf, isPlain, note, outdate, shownBy } from './shown.js';
import { isLeaving } from './writes.js';

/** The stream that all channels share. */
const EVERYWHERE = '*';

/** Words of a query that say which page of it is meant. */
const PAGE = ['cursor', 'count', '$cursor', '$count'];

/**
 * Keeps a collection like its channel: created models come in, deleted ones go; an update never adds a model.
 *
 * @typedef {import('./mirror.js').Turn} Turn
 */
export class CollectionMirror extends Mirror {
  /** The application's own latest fetch, made again when everything must be read anew. @type {Record<string, any>} */
  asked = {};
  /** Its filter, if the server took it for a query: then what comes must fit it. @type {any} */
  query = undefined;
  /** What it shows of the query, if that asks for its first page. @type {Window | undefined} */
  window = undefined;
  #refill = new Refill(this);
  #factory = new Factory(this);
  /** What of the window the collection was given. @type {Set<string>} */
  #given = new Set();
  /** Models that the page itself took out. @type {WeakSet<object>} */
  taken = new WeakSet();
  /** Whether what comes now is the server's. */
  #receiving = false;

  /** The collection's own query, whatever it is fetched with. @type {any} */
  own = undefined;
  /** What was the own query before it was changed, and what was fetched, until the new one was read. @type {{own: any, asked: any, reverted: () => void} | undefined} */
  #former = undefined;

  /** What it wants to be told of. */
  get wanted() {
    return conditionsOf(this.own);
  }

  start() {
    // Also of a collection that was there before `attach`.
    Object.setPrototypeOf(this.target._byId, null);
    this.target.on('add', this.#added, this).on('remove', this.#removed, this).on('reset', this.#replaced, this);
    this.#bootstrap(this.target.models);
  }

  stop() {
    this.target.off(null, null, this);
    this.window = undefined;
    this.#refill.stop();
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'error' && !passing(args[0])) this.#revert();
    super.tell(event, ...args);
    if (event === 'listening') this.#refill.ask();
  }

  /**
   * Show what another query finds, once it was read; what the latest fetch said of order and pages stays.
   * @param {any} query
   * @param {() => void} reverted called if it cannot be read, and the former one holds again
   */
  setQuery(query, reverted) {
    this.#former = { own: this.own, asked: this.asked, ...this.#former, reverted };
    const { data, ...asked } = this.asked;
    const words = Object.fromEntries(Object.entries(wordsOf(data)).filter(([word]) => !PAGE.includes(word) && !(word in wordsOf(this.own))));
    this.own = query;
    const all = combined(query, words);
    this.asked = Object.keys(all).length > 0 || data !== undefined ? { ...asked, data: all } : asked;
    this.handle.requery(this);
  }

  /** The changed query cannot be read, or listened to: the former one holds again. */
  #revert() {
    if (!this.#former) return;
    const { reverted, ...former } = this.#former;
    this.#former = undefined;
    Object.assign(this, former);
    reverted();
    // What was told meanwhile may not have been taken.
    this.handle.requery(this);
  }

  release() {
    super.release();
    this.#refill.ask();
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
    if (this.window && this.query === undefined) return !this.#isTold;
    return this.query !== undefined && (this.window !== undefined || !isPaged(this.query)) && mayEnter(this.query, news);
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
    for (const { id, method, truth, stream } of window ? turns : []) this.#put(id, method === 'delete' ? undefined : truth, stream);
    this.#factory.watch(() => {
      for (const turn of turns) guarded(() => this.#decide(turn, { leaving, gone, items }));
    });
    if (leaving.length > 0) guarded(() => target.remove(leaving, REMOTE));
    guarded(() => this.#set(items));
    for (const model of gone) this.destroy(model);
    if (window) this.#arrange(new Map(turns.map(({ id, maker }) => [String(id), maker])));
    for (const { id } of turns) this.#forget(id);
    this.#refill.ask(turns.some(({ maker }) => maker));
  }

  /** Whether the server tells it of what its query finds, and of nothing else: then nothing needs to be compared here. */
  get #isTold() {
    const { told } = this.handle;
    return Boolean(told) && same(told, conditionsOf(this.asked.data));
  }

  /** @param {any} truth a record @param {string} [stream] that it was told in; what all channels share is told whatever was asked for @returns {boolean} */
  #matches(truth, stream) {
    return (this.#isTold && stream !== EVERYWHERE) || matches(this.query, truth);
  }

  /** Tell the window. @param {any} id @param {any} truth the record as it is; undefined when it is deleted @param {string} [stream] */
  #put(id, truth, stream) {
    if (id === undefined || !this.window) return;
    // The server gives a meaning of its own to the query, and is asked.
    if (truth !== undefined && this.query === undefined && !this.#isTold) this.window.doubt();
    else this.window.put(id, truth !== undefined && this.#matches(truth, stream) ? truth : undefined);
  }

  /**
   * Have the collection show what the window shows: what has left it leaves, what has entered comes in.
   * @param {Map<string, any>} judged records that it was told of, and models that the page has of them, if it has
   */
  #arrange(judged = new Map()) {
    const { target, window, replica } = this;
    if (!window) return;
    const before = this.#given;
    const ids = window.ids;
    const given = (this.#given = new Set(ids));
    const leaving = [...before, ...judged.keys()].filter((id) => !given.has(id)).map((id) => target.get(id));
    /** @type {Map<string, any>} */
    const made = new Map();
    this.#factory.watch(() => {
      for (const id of ids) {
        const maker = judged.get(id);
        if (target.get(id) || (before.has(id) && !judged.has(id)) || this.#isLeaving(id, maker)) continue;
        const [truth, rev] = [replica.truth(id), replica.rev(id)];
        if (maker) guarded(() => this.show(maker, truth, rev));
        const model = maker ?? guarded(() => this.#factory.make(truth, rev));
        if (model) made.set(id, model);
        destroyed.delete(model);
      }
    });
    guarded(() => this.#receive(() => arrange(target, { leaving: leaving.filter(Boolean), ids, made, options: this.#adding })));
  }

  /** How models are added. */
  get #adding() {
    return { ...(this.asked.sort === false && { sort: false }), ...REMOTE };
  }

  /** @param {Turn} turn @param {{leaving: any[], gone: any[], items: any[]}} lists */
  #decide({ id, method, truth, rev, maker, stream }, { leaving, gone, items }) {
    const model = id === undefined ? undefined : this.target.get(id);
    // What the page itself creates stays, unless the collection has a query of its own.
    const stays = this.query === undefined || (maker && this.own === undefined);
    const fits = this.window ? this.window.shows(id) : stays || this.#matches(truth, stream);
    // What enters a list enters it by any change, but nothing enters a page; what enters a window is given its place.
    const enters = !this.window && (this.query === undefined ? method === 'create' : maker || !isPaged(this.query));
    if (method === 'delete') {
      if (model) gone.push(model);
    } else if (!fits) {
      if (model) leaving.push(model);
    } else if (model) {
      const item = this.#merging(model, truth, rev);
      if (item) items.push(item);
    } else if (enters && !this.#isLeaving(id, maker)) {
      const added = maker ?? this.#factory.make(truth, rev);
      if (added) items.push(added);
    }
  }

  /** @param {any} id @param {any} maker */
  #isLeaving(id, maker) {
    if (maker && isLeaving(maker)) return true;
    return [...this.pending].some(({ method, model }) => method === 'delete' && model.id === id);
  }

  /** @param {any} model @param {any} raw @param {number | undefined} rev @returns {any} what to set so that the model shows it */
  #merging(model, raw, rev) {
    const merged = this.merged(model, raw, rev);
    if (!merged) return undefined;
    unset(model, merged.gone);
    merged.attributes[model.idAttribute] = model.id;
    return merged.attributes;
  }

  /** @param {any[]} items models, and attributes of such as are there */
  #set(items) {
    if (items.length === 0) return;
    for (const item of items) destroyed.delete(item);
    this.#receive(() => {
      this.target.set(items, { add: true, merge: true, remove: false, ...this.#adding });
    });
  }

  /** @param {() => void} change that the server's word makes */
  #receive(change) {
    const outer = this.#receiving;
    this.#receiving = true;
    try {
      change();
    } finally {
      this.#receiving = outer;
    }
  }

  /** @param {any} id of a model that may not be shown: then it is not remembered for long */
  #forget(id) {
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
    if (model.id !== undefined) this.#forget(model.id);
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
    const { target, query } = this;
    const truth = shownBy(model, this.handle)?.raw;
    const there = this.#has(model);
    const other = there || method === 'delete' ? undefined : target.get(model.id);
    if (other && other !== model) {
      this.show(other, this.replica.truth(model.id) ?? truth, this.replica.rev(model.id));
      if (this.window) this.#placeInWindow(model, this.replica.truth(model.id));
    } else if (method === LEAVE) {
      if (there) target.remove(model, REMOTE);
      this.#placeInWindow(model, undefined);
    } else if (method === 'delete' || this.#isGone(model.id, passed)) {
      this.destroy(target.get(model.id) ?? model);
      this.#placeInWindow(model, undefined);
    } else if (this.window) {
      const known = this.replica.truth(model.id) ?? truth;
      const isOurs = there || method === 'create' || this.taken.has(model) || model.collection === target;
      if (known !== undefined) this.#placeInWindow(model, known, isOurs);
    } else if (method === 'create' && (this.own === undefined || truth === undefined || this.#matches(truth))) {
      if (!there && !isLeaving(model)) this.#receive(() => target.add(model, REMOTE));
    } else if (query === undefined) {
      // A form's model with an id of the page's own making, that the server took.
      if (!there && model.collection === target && !isLeaving(model)) this.#receive(() => target.add(model, REMOTE));
    } else if (truth !== undefined) {
      const fits = this.#matches(truth);
      if (there && !fits) target.remove(model, REMOTE);
      else if (!there && fits && !isPaged(query) && !isLeaving(model) && (this.taken.has(model) || model.collection === target)) target.add(model, REMOTE);
    }
  }

  /** @param {any} model @param {any} truth its record @param {boolean} [isOurs] whether the model is the collection's own */
  #placeInWindow(model, truth, isOurs) {
    this.#put(model.id, truth);
    this.#arrange(isOurs ? new Map([[String(model.id), model]]) : undefined);
    this.#refill.ask(true);
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
    this.#arrange(new Map([[String(model.id), model]]));
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
    const goesOn = this.#remember(asked);
    this.#former = undefined;
    const { data } = this.asked;
    // A server may give its own meaning to `data`; then it says nothing of what others write.
    const isQuery = meta?.next !== undefined && Array.isArray(response);
    this.query = isQuery && isClear(data, response) ? data : undefined;
    const { target } = this;
    const before = this.window;
    this.window = undefined;
    let window = /** @type {Window | undefined} */ (undefined);
    if (isQuery && options.remove !== false && isFirstPage(asked.data)) window = this.#windowOf(data);
    else if (isQuery && options.remove === false && goesOn && before?.isNext(cursor)) window = before;
    // Whatever `parse` makes of them.
    const ids = window ? this.#turn(window, response, meta.next, window === before ? 'grow' : 'begin') : [];
    const creating = [...this.pending].filter(({ method, model }) => method === 'create' && this.#has(model));
    const staying = new Map(creating.map(({ model }) => [model, target.indexOf(model)]));
    const answer = new Answer(this, this.#factory, staying);
    this.#receive(() => answer.take(response, Array.isArray(meta?.r) ? meta.r : [], succeed));
    for (const entry of answer.entries.values()) this.#learn(entry);
    for (const model of staying.keys()) if (!this.#has(model)) target.add(model, REMOTE);
    for (const { model } of this.pending) reassert(model, this.handle);
    // Where the application's own `parse` has left something out, the collection is no first page.
    if (window && ids.every((id) => target.get(id) || this.#isLeaving(id, undefined))) {
      this.window = window;
      this.#given = new Set([...(window === before ? this.#given : []), ...ids.map(String)]);
      this.#arrange();
    }
    for (const id of before?.known ?? []) this.#forget(id);
  }

  /** @param {any} data @returns {Window} */
  #windowOf(data) {
    return new Window(data, () => this.#factory.idName ?? idAttributeOf(this.target), (id) => this.#forget(id));
  }

  /**
   * Tell a window of what was read.
   * @param {Window} window
   * @param {any[]} models
   * @param {string | null} next
   * @param {'begin' | 'extend' | 'grow'} how
   * @returns {any[]} the ids
   */
  #turn(window, models, next, how) {
    const read = models.map((raw) => /** @type {[any, any]} */ ([this.idOf(raw), raw]));
    window[how](read, next);
    return read.map(([id]) => id);
  }

  /** @param {any} asked what of a fetch travelled @returns {boolean} whether it went on with the query before it */
  #remember(asked) {
    const without = (/** @type {any} */ data) => Object.fromEntries(Object.entries(data ?? {}).filter(([word]) => !PAGE.includes(word)));
    // A cursor goes on with the query before it; to read that again is to begin again.
    const goesOn = said(asked.data, 'cursor') !== undefined && same(without(asked.data), without(this.asked.data));
    if (!goesOn) this.asked = asked;
    return goesOn;
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
      if (turn === this.reading) delivering(() => this.#renew(parts));
    } catch (err) {
      if (turn === this.reading && this.#former && !passing(err)) this.tell('error', err);
      throw err;
    } finally {
      this.release();
    }
  }

  /** @returns {Promise<import('../core/pages.js').Part[]>} */
  #read() {
    const { sort: _, ...options } = this.asked;
    const spec = { method: 'read', model: {}, options };
    return new Promise((resolve, reject) => {
      const done = (/** @type {any} */ err, /** @type {import('../core/pages.js').Part[]} */ parts) => (err ? reject(err) : resolve(parts));
      if (this.window && !this.#former) readOn(this.handle, spec, this.window.size, undefined, done);
      else readAll(this.handle, spec, done);
    });
  }

  /**
   * Everything was read: change what is different.
   * @param {import('../core/pages.js').Part[]} parts
   */
  #renew(parts) {
    const { target, replica } = this;
    const isOther = this.#former !== undefined;
    this.#former = undefined;
    this.#adopt(parts);
    const { window } = this;
    const result = { added: new Set(), changed: new Set(), removed: new Set() };
    const ends = Object.entries({ add: result.added, change: result.changed, remove: result.removed }).map(([event, models]) => {
      const listener = (/** @type {any} */ model) => models.add(model);
      target.on(event, listener);
      return () => target.off(event, listener);
    });
    /** @type {any[]} */
    const items = [];
    const ids = new Set(replica.pending.map(({ raw }) => String(this.idOf(raw))));
    for (const { result: response, meta } of parts) {
      const parsed = guarded(() => target.parse(clone(response), { ...REMOTE }));
      const raws = Array.isArray(parsed) ? parsed : parsed ? [parsed] : [];
      const revs = Array.isArray(response) && Array.isArray(meta?.r) ? new Map(response.map((raw, n) => [String(this.idOf(raw)), meta.r[n]])) : new Map();
      this.#factory.watch(() => {
        for (const raw of raws) guarded(() => this.#renewOne(clone(raw), revs, ids, items));
      });
    }
    if (window) this.#turn(window, parts.flatMap((part) => part.result), parts.at(-1)?.meta.next, 'begin');
    guarded(() => this.#set(items));
    const gone = target.filter((/** @type {any} */ model) => !model.isNew() && !ids.has(String(model.id)));
    replica.forget(ids);
    if (this.query === undefined && !window && !isOther) for (const model of gone) this.destroy(model);
    else if (gone.length > 0) target.remove(gone, REMOTE);
    if (window) this.#arrange(new Map(window.ids.map((id) => [id, undefined])));
    for (const end of ends) end();
    turnPage(target, {}, joined(parts, this.asked.data).meta);
    this.trigger('reset', Object.fromEntries(Object.entries(result).map(([name, models]) => [name, [...models]])));
  }

  /** What was asked for was read: keep to it. @param {import('../core/pages.js').Part[]} parts */
  #adopt(parts) {
    const { data } = this.asked;
    const isQuery = parts.every(({ result, meta }) => meta?.next !== undefined && Array.isArray(result));
    this.query = isQuery && parts.every(({ result }) => isClear(data, result)) ? data : undefined;
    const before = this.window;
    if (isQuery && before && before.data === data) return;
    this.window = isQuery && isFirstPage(data) ? this.#windowOf(data) : undefined;
    for (const id of before?.known ?? []) this.#forget(id);
  }

  /** @param {any} raw @param {Map<string, number>} revs @param {Set<string>} ids @param {any[]} items */
  #renewOne(raw, revs, ids, items) {
    const id = this.findId(raw);
    const rev = revs.get(String(id)) ?? undefined;
    ids.add(String(id));
    this.replica.learn(id, raw, rev);
    if (this.#isLeaving(id, undefined)) return;
    const model = this.target.get(id);
    if (!model && this.window) return;
    const item = model ? this.#merging(model, raw, rev) : this.#factory.make(raw, rev);
    if (item) items.push(item);
  }

  // What its window wants

  /**
   * @param {import('../core/pages.js').Part[]} parts
   * @param {string | undefined} cursor where they go on; undefined: they are the beginning
   */
  filled(parts, cursor) {
    const { target, replica } = this;
    const window = /** @type {Window} */ (this.window);
    /** @type {any[]} */
    const items = [];
    for (const { result, meta } of parts) {
      for (const [n, raw] of result.entries()) {
        const id = this.idOf(raw);
        const rev = meta.r?.[n] ?? undefined;
        replica.learn(id, raw, rev);
        const model = target.get(id);
        const item = model && guarded(() => this.#merging(model, raw, rev));
        if (item) items.push(item);
      }
    }
    this.#turn(window, parts.flatMap(({ result }) => result), parts.at(-1)?.meta.next ?? null, cursor ? 'extend' : 'begin');
    delivering(() => {
      guarded(() => this.#set(items));
      this.#arrange();
    });
    if (!cursor) turnPage(target, {}, joined(parts, this.asked.data).meta);
  }

  /** @param {any} err */
  unfilled(err) {
    super.tell('error', err);
  }
}
