/** How deep options may be nested; the server refuses whole packets deeper than 32. */
const DEPTH = 16;

/**
 * A copy of `value` with everything left out that JSON cannot carry: functions, DOM nodes, models and other instances,
 * cycles, NaN. What is left out of an object is missing, in an array it is null.
 * @param {any} value anything
 * @param {object[]} [above] the objects it sits in
 * @returns {any} undefined when nothing is left
 */
export function plain(value, above = []) {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') return Number.isFinite(value) ? value : undefined;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? undefined : value.toISOString();
  if (typeof value !== 'object' || above.includes(value) || above.length === DEPTH) return undefined;
  const path = [...above, value];
  if (Array.isArray(value)) return value.map((item) => plain(item, path) ?? null);
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) return undefined;
  /** @type {Record<string, any>} */
  const copy = {};
  for (const key of Object.keys(value)) {
    const item = key === '__proto__' ? undefined : plain(value[key], path);
    if (item !== undefined) copy[key] = item;
  }
  return copy;
}

/**
 * A copy as it will travel, so that later changes of the original do not reach a request that waits to be sent.
 * @param {any} value a model: anything JSON can carry
 * @returns {any}
 */
export const copy = (value) => (value === undefined ? null : JSON.parse(JSON.stringify(value) ?? 'null'));

/**
 * A copy of what came as JSON, for code that may change it.
 * @template T
 * @param {T} value
 * @returns {T}
 */
export function clone(value) {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return /** @type {any} */ (value.map(clone));
  /** @type {any} */
  const made = {};
  for (const key of Object.keys(value)) made[key] = clone(/** @type {any} */ (value)[key]);
  return made;
}

/**
 * A copy of attributes, to be compared with what they are later: lists and plain objects are copied, other instances are
 * what they are.
 * @param {any} value
 * @returns {any}
 */
export function snapshot(value) {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(snapshot);
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) return value;
  /** @type {any} */
  const made = {};
  for (const key of Object.keys(value)) made[key] = snapshot(value[key]);
  return made;
}

/**
 * @param {any} a
 * @param {any} b
 * @returns {boolean} whether both are the same JSON, whatever the order of their keys; dates count by their time
 */
export function same(a, b) {
  if (a === b) return true;
  if (a instanceof Date || b instanceof Date) return a instanceof Date && b instanceof Date && a.getTime() === b.getTime();
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  let more = 0;
  // Thousands of records are compared at a time; lists of their keys would be garbage.
  for (const key in a) {
    if (!(key in b && same(a[key], b[key]))) return false;
    more += 1;
  }
  for (const _ in b) more -= 1;
  return more === 0;
}

/**
 * @param {Record<string, any>} whole attributes
 * @param {Record<string, any>} part
 * @returns {boolean} whether setting the one to the other would change nothing
 */
export function covers(whole, part) {
  for (const key in part) if (!(key in whole && same(whole[key], part[key]))) return false;
  return true;
}
