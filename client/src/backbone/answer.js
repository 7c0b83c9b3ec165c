import { clone, covers, same } from '../core/json.js';
import { guarded } from '../core/report.js';
import { unset } from './mirror.js';
import { idAttributeOf, isPlain, lost, note, shownBy, watchingParse } from './shown.js';

/** Where what stands for a record that the page shows already has the record: for a model that a listener takes out meanwhile. */
const WHOLE = Symbol('whole');

/**
 * The answer to a fetch of a collection: what of it is news to the page, and what Backbone is given of it.
 *
 * @typedef {{raw: any, rev: number | undefined, model?: any, made?: boolean}} Entry a model of an answer; `made`: of it
 */
export class Answer {
  /** What is news to the page. @type {Map<any, Entry>} */
  entries = new Map();
  #mirror;
  #factory;
  #staying;

  /**
   * @param {import('./mirror.js').Mirror} mirror of the collection
   * @param {import('./factory.js').Factory} factory of its models
   * @param {Map<any, number>} staying models that are on their way to the server, and their places
   */
  constructor(mirror, factory, staying) {
    this.#mirror = mirror;
    this.#factory = factory;
    this.#staying = staying;
  }

  /**
   * Have Backbone take it.
   * @param {any} response
   * @param {(number | null)[]} revs revisions, in its order
   * @param {() => void} succeed lets Backbone have it
   */
  take(response, revs, succeed) {
    const mirror = this.#mirror;
    const { target, handle } = mirror;
    // Only the collection's own parse knows where in the response the models are; listen in on it.
    const { parse, _prepareModel: prepare } = target;
    const heard = instead(target, 'parse', (/** @type {any[]} */ ...args) => {
      const list = parse.apply(target, args);
      const raws = Array.isArray(list) ? list : list ? [list] : [];
      const { news, input } = this.#news(raws, response, revs);
      this.entries = news;
      return Array.isArray(list) ? this.#withOwn(input) : list;
    });
    const made = instead(target, '_prepareModel', (/** @type {any} */ attributes, /** @type {any} */ more) => {
      const whole = attributes[WHOLE];
      if (whole) this.entries.set(whole, { raw: clone(whole), rev: mirror.replica.rev(mirror.idOf(whole)) });
      return prepare.call(target, whole ?? attributes, more);
    });
    const parsed = (/** @type {any} */ model, /** @type {any} */ raw, /** @type {any} */ outcome, /** @type {boolean} */ plain) => {
      const entry = this.entries.get(raw);
      if (!entry) return;
      entry.model = model;
      const before = shownBy(model, handle);
      entry.made = !before;
      note(model, handle, { raw: entry.raw, rev: entry.rev, parsed: outcome, plain });
      unset(model, lost(model, before, outcome));
    };
    try {
      watchingParse(target.models, target.model, parsed, () => guarded(succeed));
    } finally {
      heard();
      made();
    }
  }

  /**
   * @param {any[]} raws models that were read
   * @param {any} response where they were
   * @param {(number | null)[]} revs in its order
   * @returns {{news: Map<any, Entry>, input: any[]}} `news`: those that the page does not show just like that; `input`: what Backbone
   *   is given of all, which need not compare once more what is the same: of that the id alone
   */
  #news(raws, response, revs) {
    const list = Array.isArray(response) ? response : [];
    const revOf = raws === list ? undefined : new Map(list.map((raw, n) => [raw, revs[n]]));
    const { target } = this.#mirror;
    const isPlainly = isPlain(target, 'modelId');
    const isBrief = isPlainly && target.modelId && isPlain(target, 'set');
    const name = idAttributeOf(target);
    const news = new Map();
    const input = [];
    const ids = new Set();
    for (let n = 0; n < raws.length; n += 1) {
      const raw = raws[n];
      const rev = (revOf ? revOf.get(raw) : revs[n]) ?? undefined;
      const id = raw?.[name];
      // Of two records with one id the later one stays.
      if (isPlainly && !ids.has(id) && this.#isShown(id, raw, rev)) {
        input.push(isBrief && covers(target._byId[id].attributes, raw) ? { [name]: id, [WHOLE]: raw } : raw);
        continue;
      }
      ids.add(id);
      input.push(raw);
      news.set(raw, { raw: clone(raw), rev });
    }
    return { news, input };
  }

  /** @param {any} id @param {any} raw @param {number | undefined} rev @returns {boolean} whether its model shows just that */
  #isShown(id, raw, rev) {
    const { target, handle, replica } = this.#mirror;
    const model = rev === undefined ? undefined : target._byId[id];
    const shown = model && shownBy(model, handle);
    if (!shown?.plain || shown.rev !== rev || replica.truth(model.id) !== shown.raw) return false;
    // A server may tell the same revision otherwise, to another user.
    return same(shown.raw, raw);
  }

  /**
   * Backbone drops what the server does not have; what is on its way there stays where it is, and what is on its way out
   * does not come back.
   * @param {any[]} list models read
   */
  #withOwn(list) {
    const { target, pending } = this.#mirror;
    const { idName } = this.#factory;
    const leaving = new Set([...pending].filter(({ method }) => method === 'delete').map(({ model }) => String(model.id)));
    const kept = leaving.size === 0 ? list : list.filter((raw) => !leaving.has(String(this.#mirror.idOf(raw))));
    // Before 1.2 Backbone parses models that it is given.
    if (!target.modelId) return kept;
    const name = idAttributeOf(target);
    const all = idName && idName !== name ? kept.map((raw) => this.#renamed(raw, name) ?? raw) : [...kept];
    for (const [model, index] of this.#staying) all.splice(Math.min(index, all.length), 0, model);
    return all;
  }

  /**
   * Backbone does not know a model again whose id has another name in the page.
   * @param {any} raw
   * @param {string} name what the page calls the id
   * @returns {any} the model, set to what was read
   */
  #renamed(raw, name) {
    const { target } = this.#mirror;
    if ((target.modelId({ ...raw }, name) ?? undefined) !== undefined) return undefined;
    const model = target.get(raw[/** @type {string} */ (this.#factory.idName)]);
    const entry = this.entries.get(raw);
    if (!model || !entry) return undefined;
    entry.model = model;
    this.#mirror.show(model, entry.raw, entry.rev);
    return model;
  }
}

/**
 * Have an object use another method for a while.
 * @param {any} object
 * @param {string} name
 * @param {Function} method
 * @returns {() => void} ends it
 */
function instead(object, name, method) {
  const own = Object.getOwnPropertyDescriptor(object, name);
  object[name] = method;
  return () => {
    if (own) Object.defineProperty(object, name, own);
    else delete object[name];
  };
}
