import { joined } from '../core/pages.js';
import { isFirstPage } from '../core/query.js';
import { Refill } from '../core/refill.js';
import { guarded } from '../core/report.js';
import { Window } from '../core/window.js';
import { arrange } from './arrange.js';
import { delivering } from './deliver.js';
import { destroyed } from './mirror.js';
import { turnPage } from './page.js';
import { idAttributeOf } from './shown.js';

/** The window of a bound collection that shows the first page of a query: what leaves the page makes room for what comes next. */
export class Windowed {
  /** What the collection shows of its query, if that asks for its first page. @type {Window | undefined} */
  window = undefined;
  /** What of the window the collection was given. @type {Set<string>} */
  #given = new Set();
  #refill = new Refill(this);
  #mirror;
  #factory;

  /**
   * @param {import('./mirror-collection.js').CollectionMirror} mirror of the collection
   * @param {import('./factory.js').Factory} factory of its models
   */
  constructor(mirror, factory) {
    this.#mirror = mirror;
    this.#factory = factory;
  }

  get handle() {
    return this.#mirror.handle;
  }

  get replica() {
    return this.#mirror.replica;
  }

  /** The options of reads. */
  get asked() {
    return this.#mirror.asked.options;
  }

  /** The collection is bound no more. */
  stop() {
    this.window = undefined;
    this.#refill.stop();
  }

  /** @param {boolean} [isOwn] whether because of what the page has done itself */
  ask(isOwn) {
    this.#refill.ask(isOwn);
  }

  /** Tell the window. @param {any} id @param {any} truth the record as it is; undefined when it is deleted @param {string} [stream] */
  put(id, truth, stream) {
    const { asked } = this.#mirror;
    if (id === undefined || !this.window) return;
    // The server gives a meaning of its own to the query, and is asked.
    if (truth !== undefined && asked.query === undefined && !asked.isTold) this.window.doubt();
    else this.window.put(id, truth !== undefined && asked.matches(truth, stream) ? truth : undefined);
  }

  /**
   * Have the collection show what the window shows: what has left it leaves, what has entered comes in.
   * @param {Map<string, any>} judged records that it was told of, and models that the page has of them, if it has
   */
  arrange(judged = new Map()) {
    const { window } = this;
    const mirror = this.#mirror;
    const { target, replica } = mirror;
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
        if (target.get(id) || (before.has(id) && !judged.has(id)) || mirror.isLeaving(id, maker)) continue;
        const [truth, rev] = [replica.truth(id), replica.rev(id)];
        if (maker) guarded(() => mirror.show(maker, truth, rev));
        const model = maker ?? guarded(() => this.#factory.make(truth, rev));
        if (model) made.set(id, model);
        destroyed.delete(model);
      }
    });
    guarded(() => mirror.receive(() => arrange(target, { leaving: leaving.filter(Boolean), ids, made, options: mirror.adding })));
  }

  /** @param {any} model @param {any} truth its record @param {boolean} [isOurs] whether the model is the collection's own */
  place(model, truth, isOurs) {
    this.put(model.id, truth);
    this.arrange(isOurs ? new Map([[String(model.id), model]]) : undefined);
    this.ask(true);
  }

  // Reading

  /** @param {any} data a query for a first page @returns {Window} */
  begin(data) {
    return new Window(data, () => this.#factory.idName ?? idAttributeOf(this.#mirror.target), (id) => this.#mirror.forget(id));
  }

  /**
   * Tell a window of what was read.
   * @param {Window} window
   * @param {any[]} models
   * @param {string | null} next
   * @param {'begin' | 'extend' | 'grow'} how
   * @returns {any[]} the ids
   */
  turn(window, models, next, how) {
    const read = models.map((raw) => /** @type {[any, any]} */ ([this.#mirror.idOf(raw), raw]));
    window[how](read, next);
    return read.map(([id]) => id);
  }

  /**
   * The collection was given what a window shows.
   * @param {Window} window
   * @param {any[]} ids of what was read for it
   * @param {boolean} isGrown whether beside what it was given before
   */
  show(window, ids, isGrown) {
    this.window = window;
    this.#given = new Set([...(isGrown ? this.#given : []), ...ids.map(String)]);
    this.arrange();
  }

  /** Everything was read anew: have the window that belongs to it. @param {any} data what was asked for @param {boolean} isQuery */
  adopt(data, isQuery) {
    const before = this.window;
    if (isQuery && before && before.data === data) return;
    this.window = isQuery && isFirstPage(data) ? this.begin(data) : undefined;
    for (const id of before?.known ?? []) this.#mirror.forget(id);
  }

  /**
   * What the window wants was read.
   * @param {import('../core/pages.js').Part[]} parts
   * @param {string | undefined} cursor where they go on; undefined: they are the beginning
   */
  filled(parts, cursor) {
    const mirror = this.#mirror;
    const { target, replica } = mirror;
    const window = /** @type {Window} */ (this.window);
    /** @type {any[]} */
    const items = [];
    for (const { result, meta } of parts) {
      for (const [n, raw] of result.entries()) {
        const id = mirror.idOf(raw);
        const rev = meta.r?.[n] ?? undefined;
        replica.learn(id, raw, rev);
        const model = target.get(id);
        const item = model && guarded(() => mirror.merging(model, raw, rev));
        if (item) items.push(item);
      }
    }
    this.turn(window, parts.flatMap(({ result }) => result), parts.at(-1)?.meta.next ?? null, cursor ? 'extend' : 'begin');
    delivering(() => {
      guarded(() => mirror.set(items));
      this.arrange();
    });
    if (!cursor) turnPage(target, {}, joined(parts, this.asked.data).meta);
  }

  /** @param {any} err */
  unfilled(err) {
    this.#mirror.unfilled(err);
  }

  /** A read has ended. */
  release() {
    this.#mirror.release();
  }
}
