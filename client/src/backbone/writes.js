import { same, snapshot } from '../core/json.js';

/**
 * Changes of the page's own that were made before their answer.
 *
 * @typedef {object} Write
 * @property {any} model
 * @property {string} method
 * @property {Record<string, any>} mine the attributes it changed
 * @property {Map<string, (held: any) => any>} [operations] of these, what it makes of what is held
 * @property {Map<any, number>} places where the model was in each bound collection
 */

/** @type {WeakMap<object, Set<Write>>} */
const waiting = new WeakMap();

/** @param {any} model @returns {Iterable<Write>} its changes that have no answer yet, oldest first */
export const writesOf = (model) => waiting.get(model) ?? [];

/** @param {Write} write */
export function begun(write) {
  waiting.set(write.model, (waiting.get(write.model) ?? new Set()).add(write));
}

/** @param {Write} write */
export function ended(write) {
  waiting.get(write.model)?.delete(write);
}

/** @param {any} model @returns {boolean} whether any change of it has no answer yet */
export const isWaiting = (model) => (waiting.get(model)?.size ?? 0) > 0;

/** @param {any} model @param {string} key @returns {Write | undefined} the latest change of the attribute that waits for its answer */
export function pendingOn(model, key) {
  let latest;
  for (const write of writesOf(model)) if (key in write.mine) latest = write;
  return latest;
}

/** @param {any} model @param {string} key @returns {boolean} whether a change of the attribute waits for its answer */
export const isPending = (model, key) => pendingOn(model, key) !== undefined;

/** @param {any} model @returns {boolean} whether it is being deleted */
export function isLeaving(model) {
  for (const write of writesOf(model)) if (write.method === 'delete') return true;
  return false;
}

/**
 * The attributes that are not what they were.
 * @param {any} model
 * @param {Record<string, any>} base what they were
 * @param {Iterable<string>} names the attributes to look at
 * @returns {Record<string, any>}
 */
export function changed(model, base, names) {
  /** @type {Record<string, any>} */
  const mine = {};
  for (const name of names) if (!same(model.get(name), base[name])) mine[name] = snapshot(model.get(name));
  return mine;
}
