import { snapshot } from '../core/json.js';
import { isPending } from './writes.js';

/**
 * What each instance of a model shows of what the server holds: the revision, and the attributes that the application's
 * `parse` made of it. A model may be in several collections of a page, or in none for a while.
 *
 * @typedef {object} Shown
 * @property {string} place the backend and channel that said it
 * @property {number | undefined} rev its revision, if told
 * @property {any} raw what was said, to know it again
 * @property {Record<string, any>} base the attributes it came to, and those that the page had added before
 * @property {string[] | undefined} names those of them that came from the server, where that is not just all of what was said
 * @property {boolean} plain whether that is all of what was said, as it was said
 */

/** @type {WeakMap<object, Shown>} */
const shown = new WeakMap();

/**
 * @param {any} model
 * @param {import('../core/handle.js').Handle} handle
 * @returns {Shown | undefined}
 */
export function shownBy(model, handle) {
  const entry = shown.get(model);
  return entry?.place === handle.place ? entry : undefined;
}

/**
 * Note what a model shows, or is about to.
 * @param {any} model
 * @param {import('../core/handle.js').Handle} handle
 * @param {{rev?: number, raw?: any, parsed?: any, plain?: boolean}} state `parsed`: what `parse` has made of it, where that is
 *   known; `plain`: that is what was said
 */
export function note(model, handle, { rev, raw, parsed, plain = false }) {
  const { attributes } = model;
  const before = shown.get(model);
  const base = plain ? raw : copied(parsed ?? attributes);
  // Of thousands of records, lists of their names would be garbage.
  const names = plain ? undefined : Object.keys(parsed ?? raw ?? attributes).filter((name) => parsed || name in attributes);
  const now = { place: handle.place, rev, raw, base, names, plain };
  shown.set(model, now);
  if (!before) complete(model);
  else if (before.base !== before.raw) {
    const own = namesOf(before);
    const extra = Object.keys(before.base).filter((name) => !(name in base) && !own.includes(name));
    if (extra.length > 0) now.base = { ...base, ...Object.fromEntries(extra.map((name) => [name, before.base[name]])) };
  }
}

/** @param {Shown} entry @returns {string[]} the attributes that came from the server */
const namesOf = ({ names, raw }) => names ?? Object.keys(raw);

/**
 * @param {any} model
 * @param {Shown | undefined} entry what it showed
 * @param {Record<string, any>} attributes what it is to show
 * @returns {string[]} the attributes that came from the server and are gone
 */
export function lost(model, entry, attributes) {
  return entry ? namesOf(entry).filter((name) => !(name in attributes) && name in model.attributes) : [];
}

/** @param {Record<string, any>} attributes @returns {Record<string, any>} */
function copied(attributes) {
  /** @type {Record<string, any>} */
  const made = {};
  for (const name of Object.keys(attributes)) made[name] = snapshot(attributes[name]);
  return made;
}

/**
 * Attributes that a model has from the beginning and the server does not know are the page's alone: none of its changes.
 * @param {any} model that was just made
 */
export function complete(model) {
  const entry = /** @type {Shown} */ (shown.get(model));
  const added = Object.keys(model.attributes).filter((name) => !(name in entry.base) && !isPending(model, name));
  if (added.length > 0) entry.base = { ...entry.base, ...Object.fromEntries(added.map((name) => [name, snapshot(model.attributes[name])])) };
}

/** Revisions have begun anew. @param {any} model */
export function outdate(model) {
  const entry = shown.get(model);
  if (entry) entry.rev = undefined;
}

/** @param {any} prototype @returns {any} the first of those it inherits from, which is Backbone's */
function first(prototype) {
  const next = Object.getPrototypeOf(prototype);
  return next === null || Object.getPrototypeOf(next) === null ? prototype : first(next);
}

/** Methods of Backbone's own that have another in their place for now. @type {WeakMap<Function, Function>} */
const watched = new WeakMap();

/**
 * @param {any} object a model or collection
 * @param {string} name of a method
 * @returns {boolean} whether that is Backbone's own
 */
export function isPlain(object, name) {
  const its = first(object)[name];
  const current = object[name];
  return (watched.get(current) ?? current) === (watched.get(its) ?? its);
}

/** @param {any} model @returns {boolean} whether it takes a record as it is */
export const takesPlainly = (model) => isPlain(model, 'parse') && isPlain(model, 'set');

/**
 * Run what has models parsed, and tell of each as soon as its `parse` is done.
 * @param {any[]} models
 * @param {any} Kind the class that new ones are made of
 * @param {(model: any, input: any, outcome: any, plain: boolean) => void} parsed `plain`: by Backbone's own, which gives back
 *   what it is given
 * @param {() => void} run
 */
export function watchingParse(models, Kind, parsed, run) {
  const kinds = new Set([Kind?.prototype]);
  for (const model of models) kinds.add(Object.getPrototypeOf(model));
  const prototypes = [...kinds].filter((prototype) => typeof prototype?.parse === 'function');
  const replaced = prototypes.map((prototype) => {
    const own = Object.getOwnPropertyDescriptor(prototype, 'parse');
    const { parse } = prototype;
    const plain = takesPlainly(prototype);
    /** @this {any} @param {any} input @param {any} options */
    const value = function watching(input, options) {
      const outcome = parse.call(this, input, options);
      if (typeof outcome === 'object' && outcome !== null) parsed(this, input, outcome, plain && outcome === input);
      return outcome;
    };
    watched.set(value, watched.get(parse) ?? parse);
    Object.defineProperty(prototype, 'parse', { value, configurable: true, writable: true });
    return { prototype, own };
  });
  try {
    run();
  } finally {
    for (const { prototype, own } of replaced) {
      if (own) Object.defineProperty(prototype, 'parse', own);
      else delete prototype.parse;
    }
  }
}

/**
 * The name that a record's id has on the server: another than in the page, where `parse` renames it.
 * @param {any} raw the record
 * @param {any} id as the page has it
 * @param {string} idAttribute
 * @returns {string | undefined}
 */
export function nameOfId(raw, id, idAttribute) {
  if (typeof raw !== 'object' || raw === null || id === undefined || id === null) return undefined;
  if (raw[idAttribute] === id) return idAttribute;
  return raw.id === id ? 'id' : Object.keys(raw).find((name) => raw[name] === id);
}

/** @param {any} collection @returns {string} the name of the id of its models in the page */
export function idAttributeOf(collection) {
  return collection.model.prototype?.idAttribute ?? 'id';
}
