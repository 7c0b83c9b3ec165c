/**
 * Whether a model is what a query asks for, as the server would say: a bound collection that was fetched with one keeps
 * to it. What is here was understood by the server already. See docs/queries.md.
 */

const WORDS = ['sort', 'limit', 'offset', 'cursor', 'count'];

/** Texts are compared by this many of their characters. */
const LENGTH = 256;

/** @param {any} value */
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** @param {string} name @param {any} value */
const isWord = (name, value) =>
  WORDS.includes(name) ? !isObject(value) : name.startsWith('$') && WORDS.includes(name.slice(1));

/**
 * @param {any} data a query
 * @param {string} word one of `sort`, `limit`, `offset`, `cursor` and `count`
 * @returns {any} what it says there, undefined when nothing
 */
export function said(data, word) {
  const plain = isObject(data?.[word]) ? undefined : data?.[word];
  return data?.[`$${word}`] ?? plain ?? undefined;
}

/** @param {any} data a query @returns {boolean} whether it asks for a part only of what it finds */
export const isPaged = (data) => ['limit', 'offset', 'cursor'].some((word) => said(data, word) !== undefined);

/**
 * @param {any} data a query
 * @param {any} model
 * @returns {boolean} whether the model fulfils its conditions
 */
export function matches(data, model) {
  return Object.entries(data ?? {}).every(([name, wanted]) => isWord(name, wanted) || holds(name, wanted, model));
}

/** @param {string} name @param {any} wanted @param {any} model @returns {boolean} */
function holds(name, wanted, model) {
  if (name === '$or') {
    return wanted.some((/** @type {any} */ one) => Object.entries(one).every((entry) => holds(...entry, model)));
  }
  const value = lookup(model, name.split('.'));
  if (!isObject(wanted)) return order(value, wanted) === 0;
  return Object.entries(wanted).every(([operator, operand]) => compare(value, operator, operand));
}

/** @param {any} model @param {string[]} path */
function lookup(model, path) {
  let value = model;
  for (const name of path) value = isObject(value) && Object.hasOwn(value, name) ? value[name] : undefined;
  return value;
}

/** @param {any} value @param {string} operator @param {any} operand @returns {boolean} */
function compare(value, operator, operand) {
  if (operator === '$in') return operand.some((/** @type {any} */ one) => order(value, one) === 0);
  if (operator === '$contains') return Array.isArray(value) && value.some((/** @type {any} */ one) => order(one, operand) === 0);
  if (operator === '$like') return typeof value === 'string' && like(operand).test(value);
  const sign = order(value, operand);
  if (operator === '$eq') return sign === 0;
  if (operator === '$ne') return sign !== 0;
  if (sign === undefined) return false;
  return { $gt: sign > 0, $gte: sign >= 0, $lt: sign < 0, $lte: sign <= 0 }[operator] ?? false;
}

/**
 * @param {any} value
 * @param {any} operand
 * @returns {number | undefined} below 0, 0 or above 0; undefined when they are of different types
 */
function order(value, operand) {
  if (value === operand) return 0;
  if (typeof value === 'number' && typeof operand === 'number') return value - operand;
  if (typeof value !== 'string' || typeof operand !== 'string') return undefined;
  // By code points, unlike JavaScript's own comparison.
  const [one, other] = [[...value].slice(0, LENGTH), [...operand]];
  const at = one.findIndex((character, index) => character !== other[index]);
  if (at < 0) return one.length - other.length;
  return at < other.length ? /** @type {any} */ (one[at].codePointAt(0)) - /** @type {any} */ (other[at].codePointAt(0)) : 1;
}

/** @param {string} pattern @returns {RegExp} */
function like(pattern) {
  const parts = pattern.match(/\\[^]|[^]/gu) ?? [];
  const source = parts.map((part) => {
    if (part === '%') return '.*';
    return part === '_' ? '.' : part.slice(-2).replace(/^\\/u, '').replace(/[$()*+./?[\\\]^{|}-]/gu, '\\$&');
  });
  return new RegExp(`^${source.join('')}$`, 'su');
}
