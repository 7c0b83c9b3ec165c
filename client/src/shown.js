import { snapshot } from './core/json.js';
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
 * @property {string[]} names those of them that came from the server
 */

/** @type {WeakMap<object, Shown>} */
const shown = new WeakMap();

/** @param {import('./core/handle.js').Handle} handle */
const placeOf = ({ name, channel }) => JSON.stringify([name, channel]);

/**
 * @param {any} model
 * @param {import('./core/handle.js').Handle} handle
 * @returns {Shown | undefined}
 */
export function shownBy(model, handle) {
  const known = shown.get(model);
  return known?.place === placeOf(handle) ? known : undefined;
}

/**
 * Note what a model shows, or is about to.
 * @param {any} model
 * @param {import('./core/handle.js').Handle} handle
 * @param {{rev?: number, raw?: any, parsed?: any}} told `parsed`: what `parse` has made of it, where that is known
 */
export function note(model, handle, { rev, raw, parsed }) {
  const { attributes } = model;
  const names = Object.keys(parsed ?? raw ?? attributes);
  const own = parsed ? names : names.filter((name) => name in attributes);
  const before = shown.get(model);
  const base = snapshot({ ...(parsed ?? attributes) });
  shown.set(model, { place: placeOf(handle), rev, raw, base, names: own });
  if (!before) complete(model);
  else for (const name of Object.keys(before.base)) if (!(name in base) && !before.names.includes(name)) base[name] = before.base[name];
}

/**
 * Attributes that a model has from the beginning and the server does not know are the page's alone: none of its changes.
 * @param {any} model that was just made
 */
export function complete(model) {
  const { base } = /** @type {Shown} */ (shown.get(model));
  for (const name of Object.keys(model.attributes)) {
    if (!(name in base) && !isPending(model, name)) base[name] = snapshot(model.attributes[name]);
  }
}

/** Revisions have begun anew. @param {any} model */
export function outdate(model) {
  const known = shown.get(model);
  if (known) known.rev = undefined;
}

/**
 * Run what has models parsed, and tell of each as soon as its `parse` is done.
 * @param {any[]} models
 * @param {any} Kind the class that new ones are made of
 * @param {(model: any, given: any, outcome: any) => void} parsed
 * @param {() => void} run
 */
export function watchingParse(models, Kind, parsed, run) {
  const kinds = new Set([Kind?.prototype, ...models.map((model) => Object.getPrototypeOf(model))]);
  const kept = [...kinds].filter((prototype) => typeof prototype?.parse === 'function').map((prototype) => {
    const own = Object.getOwnPropertyDescriptor(prototype, 'parse');
    const { parse } = prototype;
    /** @this {any} @param {...any} args */
    const value = function watched(...args) {
      const outcome = parse.apply(this, args);
      if (typeof outcome === 'object' && outcome !== null) parsed(this, args[0], outcome);
      return outcome;
    };
    Object.defineProperty(prototype, 'parse', { value, configurable: true, writable: true });
    return { prototype, own };
  });
  try {
    run();
  } finally {
    for (const { prototype, own } of kept) {
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
