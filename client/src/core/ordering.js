/** The order of values, as the server has it: docs/queries.md says how they compare. */

const [MISSING, NULL, FALSE, TRUE, NUMBER, TEXT, OTHER] = [0, 1, 2, 3, 4, 5, 6];

/** Texts are compared by this many of their characters, ids by all. */
const LENGTH = 256;

/** @typedef {[rank: number, value: any]} Key what a value is compared and sorted by */

/**
 * @param {any} value
 * @param {boolean} [whole] whether a text counts as a whole
 * @returns {Key}
 */
export function keyOf(value, whole = false) {
  if (typeof value === 'string') return [TEXT, whole || value.length <= LENGTH ? value : [...value].slice(0, LENGTH).join('')];
  if (typeof value === 'number') return [NUMBER, value];
  if (typeof value === 'boolean') return [value ? TRUE : FALSE, 0];
  if (value === null) return [NULL, 0];
  return [value === undefined ? MISSING : OTHER, 0];
}

/** @param {Key} a @param {Key} b @returns {number} below 0, 0 or above 0 */
export function compareKeys([rank, value], [otherRank, other]) {
  if (rank !== otherRank) return rank - otherRank;
  if (value === other) return 0;
  return rank === TEXT ? compareTexts(value, other) : value - other;
}

/** @param {Key} key @returns {boolean} whether it is what the server compares: JavaScript rounds numbers past 2^53 */
export const isExact = ([rank, value]) => rank !== NUMBER || Math.abs(value) <= Number.MAX_SAFE_INTEGER;

/** By code points, unlike JavaScript's own comparison. @param {string} a @param {string} b @returns {number} */
function compareTexts(a, b) {
  const length = Math.min(a.length, b.length);
  for (let n = 0; n < length; n += 1) {
    const [one, other] = [a.charCodeAt(n), b.charCodeAt(n)];
    if (one !== other) return placeOf(one) - placeOf(other);
  }
  return a.length - b.length;
}

/** Halves of characters past 0xffff come after all others. @param {number} unit @returns {number} */
function placeOf(unit) {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}

/** @param {any} value */
export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** @param {any} model @param {string[]} path @returns {any} the value of a field, undefined where there is none */
export function lookup(model, path) {
  let value = model;
  for (const name of path) value = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return value;
}
