import { operationsIn, setsOf } from '../core/operators.js';
import { same } from '../core/json.js';
import { writesOf } from './writes.js';

/**
 * What a model shows of fields that it counts or appends to (`save({$inc: {likes: 1}}, {patch: true})`): what the server said
 * last, and on top of it what still waits for its answer. Where that cannot be known here, as of a decimal number that is a
 * text, it shows what the server said.
 */

/** The option of a sync that has the patch as it travels, beside the attributes that a model shows. */
export const OPERATES = '$patch';

/**
 * @param {Record<string, any> | undefined} attributes the attributes as they are
 * @param {any} patch
 * @returns {Record<string, any>} what a patch comes to, as far as can be known here
 */
export function applied(attributes, patch) {
  const result = { ...setsOf(patch) };
  for (const [name, change] of operationsIn(patch)) {
    const value = change(attributes?.[name]);
    if (value !== undefined) result[name] = value;
  }
  return result;
}

/**
 * What it builds on has changed: have the writes of a model that wait know what they come to now.
 * @param {any} model
 * @param {Record<string, any>} base what the server said
 * @returns {Record<string, any>} what to set the model to, but for attributes that were changed again since
 */
export function rebuilt(model, base) {
  /** @type {Map<string, any>} */
  const before = new Map();
  /** @type {Map<string, any>} */
  const after = new Map();
  for (const { mine, operations } of writesOf(model)) {
    for (const key of Object.keys(mine)) {
      before.set(key, mine[key]);
      const change = operations?.get(key);
      if (change) mine[key] = change(after.has(key) ? after.get(key) : base[key]);
      after.set(key, mine[key]);
    }
  }
  const moved = [...after].filter(([key, value]) => !same(before.get(key), value) && same(model.get(key), before.get(key)));
  return Object.fromEntries(moved);
}
