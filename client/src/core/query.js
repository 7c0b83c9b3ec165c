/**
 * Whether a model is what a query asks for, as the server would say: a bound collection that was fetched with one keeps
 * to it. What is here was understood by the server already. See docs/queries.md.
 */

import { same } from './json.js';
import { compareKeys, isObject, keyOf, lookup } from './ordering.js';

const WORDS = ['sort', 'limit', 'offset', 'cursor', 'count'];

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

/** @param {any} data a query @returns {boolean} whether it asks for the first page of what it finds */
export const isFirstPage = (data) => said(data, 'limit') > 0 && !said(data, 'offset') && said(data, 'cursor') === undefined;

/** @param {any} data a query @returns {Record<string, any>} its conditions alone */
export const conditionsOf = (data) => Object.fromEntries(Object.entries(data ?? {}).filter(([name, wanted]) => !isWord(name, wanted)));

/** @param {any} data a query @returns {Record<string, any>} what it says beside its conditions */
export const wordsOf = (data) => Object.fromEntries(Object.entries(data ?? {}).filter(([name, wanted]) => isWord(name, wanted)));

/**
 * @param {any} query that of a collection
 * @param {any} data what it is fetched with
 * @returns {any} both together; of the words that say which page is meant, those of the latter
 * @throws {Error} both have a condition for the same field
 */
export function combined(query, data) {
  if (!query || (data !== undefined && !isObject(data))) return data;
  for (const name of Object.keys(conditionsOf(data))) {
    if (!(name in conditionsOf(query)) || same(data[name], query[name])) continue;
    throw new Error(`fetch: the collection's own query has a condition for ${name}; change that with setQuery, or leave it out of data`);
  }
  const own = new Set(Object.keys(wordsOf(data)).map((word) => word.replace(/^\$/, '')));
  const kept = Object.entries(wordsOf(query)).filter(([word]) => !own.has(word.replace(/^\$/, '')));
  return { ...conditionsOf(query), ...Object.fromEntries(kept), ...data };
}

/**
 * @param {any} data a query
 * @param {any} model
 * @returns {boolean} whether the model fulfils its conditions
 */
export function matches(data, model) {
  return Object.entries(data ?? {}).every(([name, wanted]) => isWord(name, wanted) || holds(name, wanted, model));
}

/** A time that the server may write otherwise before it compares it. */
const TIME = /"\d{4}-\d\d-\d\d[Tt ]\d\d(?!:\d\d:\d\d\.\d{6}Z")[^"]*"/;

/**
 * @param {any} data a query
 * @param {any[]} models what the server has found
 * @returns {boolean} whether it can be told here what else it finds; of a first page, what it means can be asked of the server instead
 */
export function isClear(data, models) {
  return models.every((model) => matches(data, model)) && !(isFirstPage(data) && TIME.test(JSON.stringify(conditionsOf(data))));
}

/**
 * @param {any} data a query
 * @param {import('./handle.js').News} news what changed of a model
 * @returns {boolean} whether it may be what the query asks for by that, and was not before, or on its page; false where that cannot be
 */
export function mayEnter(data, { raw, meta }) {
  const { unset = [], append = {} } = meta ?? {};
  const changed = new Set([...Object.keys(raw), ...unset, ...Object.keys(append)]);
  const conditions = Object.entries(data).filter(([name, wanted]) => !isWord(name, wanted));
  const concerned = conditions.filter(([name, wanted]) => fieldsOf(name, wanted).some((field) => changed.has(field)));
  const isKnown = (/** @type {string} */ name) => name !== '$or' && !(name.split('.')[0] in append);
  const sort = isPaged(data) ? [said(data, 'sort') ?? []].flat() : [];
  const isMoved = sort.some((/** @type {string} */ name) => changed.has(name.replace(/^-/, '').split('.')[0]));
  return (isMoved || concerned.length > 0) && concerned.every(([name, wanted]) => !isKnown(name) || holds(name, wanted, raw));
}

/** @param {string} name @param {any} wanted @returns {string[]} the fields that a condition looks at */
function fieldsOf(name, wanted) {
  if (name !== '$or') return [name.split('.')[0]];
  return wanted.flatMap((/** @type {any} */ one) => Object.entries(one).flatMap((entry) => fieldsOf(...entry)));
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
  const [key, other] = [keyOf(value), keyOf(operand)];
  return key[0] === other[0] ? compareKeys(key, other) : undefined;
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
