import { COUNTS, uncounted } from '../core/counts.js';
import { same } from '../core/json.js';
import { writesOf } from './writes.js';

/**
 * What a model shows of fields that it counts (`save({$inc: {likes: 1}}, {patch: true})`): what the server said last, and on
 * top of it what still waits for its answer. Where a sum cannot be known here, as of a decimal number that is a text, it
 * shows what the server said.
 */

/**
 * @param {any} value
 * @param {any} number
 * @returns {any} their sum; what is held where there is none
 */
const sum = (value, number) => (typeof number === 'number' && typeof (value ?? 0) === 'number' ? (value ?? 0) + number : value);

/**
 * @param {Record<string, any> | undefined} attributes the attributes as they are
 * @param {any} patch
 * @returns {Record<string, any>} what a patch comes to, as far as can be known here
 */
export function applied(attributes, patch) {
  const result = { ...uncounted(patch) };
  for (const [name, number] of Object.entries(patch?.[COUNTS] ?? {})) {
    const total = sum(attributes?.[name], number);
    if (total !== undefined) result[name] = total;
  }
  return result;
}

/**
 * What it counts from has changed: have the writes of a model that wait know what they come to now.
 * @param {any} model
 * @param {Record<string, any>} base what the server said
 * @returns {Record<string, any>} what to set the model to, but for attributes that were changed again since
 */
export function recounted(model, base) {
  /** @type {Map<string, any>} */
  const before = new Map();
  /** @type {Map<string, any>} */
  const after = new Map();
  for (const { mine, counts } of writesOf(model)) {
    for (const key of Object.keys(mine)) {
      before.set(key, mine[key]);
      if (counts && Object.hasOwn(counts, key)) mine[key] = sum(after.has(key) ? after.get(key) : base[key], counts[key]);
      after.set(key, mine[key]);
    }
  }
  const moved = [...after].filter(([key, value]) => !same(before.get(key), value) && same(model.get(key), before.get(key)));
  return Object.fromEntries(moved);
}
