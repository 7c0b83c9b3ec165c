import { same } from '../core/json.js';
import { combined, conditionsOf, isClear, matches, said, wordsOf } from '../core/query.js';

/** The stream that all channels share. */
const EVERYWHERE = '*';

/** Words of a query that say which page of it is meant. */
const PAGE = ['cursor', 'count', '$cursor', '$count'];

/** What a bound collection asks for: its own query, and what the page has fetched of it. */
export class Asked {
  /** The options of the application's own latest fetch, made again when everything must be read anew. @type {Record<string, any>} */
  options = {};
  /** Its filter, if the server took it for a query: then what comes must fit it. @type {any} */
  query = undefined;
  /** The collection's own query, whatever it is fetched with. @type {any} */
  own = undefined;
  /** What was the own query before it was changed, and what was fetched, until the new one was read. @type {{own: any, options: any, reverted: () => void} | undefined} */
  #former = undefined;
  #handle;

  /** @param {import('../core/handle.js').Handle} handle */
  constructor(handle) {
    this.#handle = handle;
  }

  /** What to be told of. */
  get wanted() {
    return conditionsOf(this.own);
  }

  /** Whether the own query was changed, and what the new one finds was not read yet. */
  get isChanging() {
    return this.#former !== undefined;
  }

  /** Whether the server tells of what the query finds, and of nothing else: then nothing needs to be compared here. */
  get isTold() {
    const { told } = this.#handle;
    return Boolean(told) && same(told, conditionsOf(this.options.data));
  }

  /** @param {any} own the collection's own query, if it has one */
  begin(own) {
    this.own = own;
    if (own) this.options = { data: own };
  }

  /**
   * Ask for what another query finds; what the latest fetch said of order and pages stays.
   * @param {any} query
   * @param {() => void} reverted called if it cannot be read, and the former one holds again
   */
  change(query, reverted) {
    this.#former = { own: this.own, options: this.options, ...this.#former, reverted };
    const { data, ...options } = this.options;
    const words = Object.fromEntries(Object.entries(wordsOf(data)).filter(([word]) => !PAGE.includes(word) && !(word in wordsOf(this.own))));
    this.own = query;
    const all = combined(query, words);
    this.options = Object.keys(all).length > 0 || data !== undefined ? { ...options, data: all } : options;
  }

  /** The changed query cannot be read, or listened to: the former one holds again. @returns {boolean} whether it was changed */
  revert() {
    if (!this.#former) return false;
    const { reverted, ...former } = this.#former;
    this.#former = undefined;
    Object.assign(this, former);
    reverted();
    return true;
  }

  /** What is asked for was read. */
  settle() {
    this.#former = undefined;
  }

  /** @param {any} asked what of a fetch travelled @returns {boolean} whether it went on with the query before it */
  remember(asked) {
    const without = (/** @type {any} */ data) => Object.fromEntries(Object.entries(data ?? {}).filter(([word]) => !PAGE.includes(word)));
    // A cursor goes on with the query before it; to read that again is to begin again.
    const goesOn = said(asked.data, 'cursor') !== undefined && same(without(asked.data), without(this.options.data));
    if (!goesOn) this.options = asked;
    return goesOn;
  }

  /** @param {boolean} isQuery whether the server took it for one @param {any[]} results what it has found */
  accept(isQuery, results) {
    const { data } = this.options;
    // A server may give its own meaning to `data`; then it says nothing of what others write.
    this.query = isQuery && results.every((result) => isClear(data, result)) ? data : undefined;
  }

  /** @param {any} truth a record @param {string} [stream] that it was told in; what all channels share is told whatever was asked for @returns {boolean} */
  matches(truth, stream) {
    return (this.isTold && stream !== EVERYWHERE) || matches(this.query, truth);
  }
}
