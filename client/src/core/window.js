import { compareKeys, isExact, keyOf, lookup } from './ordering.js';
import { said } from './query.js';

/** How many records beyond those that it shows a window knows at least: they take the places of such as leave. */
const SPARES = 50;

/**
 * Which records the first page of a query shows, and in which order, while others write: a state machine without I/O.
 *
 * It knows the places of all records up to an edge, which is as far as was read. What comes before the edge has its place;
 * of what comes after it nobody knows what is in between. When records have left and it knows too few, it `wants` a read.
 * Where the order cannot be told here as the server tells it, it wants one for each news.
 *
 * @typedef {import('./ordering.js').Key[]} Place
 * @typedef {{id: string, place: Place}} Entry
 */
export class Window {
  #fields;
  #idName;
  #forget;
  #isOrdered;
  /** How many records whoever made it wants to show at most. @type {number} */
  #most;
  /** How many it shows at most: fewer, where the server's pages are shorter. @type {number} */
  size;
  /** @type {Entry[]} */
  #entries = [];
  /** @type {Map<string, Entry>} */
  #byId = new Map();
  /** As far as everything is known; null: to the end. @type {Place | null} */
  #edge = null;
  /** Of the page after the edge, where that is known. @type {string | undefined} */
  #cursor = undefined;
  /** The cursor that whoever reads on by himself has, and its place. @type {{cursor: string | null, edge: Place | null}} */
  #handed = { cursor: null, edge: null };
  #isBlind = false;
  #isStale = false;
  /** @type {Set<string> | undefined} */
  #shown = undefined;

  /**
   * @param {any} data the query
   * @param {() => string} idName what the id is called on the server
   * @param {(id: string) => void} [forget] told of what it knows no more
   */
  constructor(data, idName, forget = () => {}) {
    this.data = data;
    const sort = said(data, 'sort') ?? [];
    const limit = said(data, 'limit');
    this.#fields = fieldsOf(Array.isArray(sort) ? sort : [sort]);
    this.#idName = idName;
    this.#forget = forget;
    this.#isOrdered = limit !== undefined || this.#fields.length > 0;
    this.#most = this.size = limit ?? Infinity;
  }

  /** The ids of what is to be shown, in order. @returns {string[]} */
  get ids() {
    return [...this.#visible];
  }

  /** @param {any} id @returns {boolean} whether the record is to be shown */
  shows(id) {
    return this.#visible.has(String(id));
  }

  /** @param {any} id @returns {boolean} whether its place is known, be it shown or not */
  knows(id) {
    return this.#byId.has(String(id));
  }

  /** The ids of all whose places are known. @returns {Iterable<string>} */
  get known() {
    return this.#byId.keys();
  }

  /** Whether something must be read: with `cursor`, or from the beginning without one. */
  get wants() {
    const isShort = this.#entries.length < this.size && this.#edge !== null;
    // Whoever was told that there is no more than this would never ask for the rest.
    const isLonger = this.#entries.length > this.size && this.#handed.cursor === null;
    return this.#isStale || isShort || isLonger;
  }

  /** @returns {string | undefined} where to read on; undefined: from the beginning */
  get cursor() {
    return this.#isStale || this.#entries.length >= this.size ? undefined : this.#cursor;
  }

  /** Whether records follow after those that are shown, as far as is known. */
  get isMore() {
    return this.#edge !== null || this.#entries.length > this.size;
  }

  /** Show more. @param {number} count how many */
  widen(count) {
    this.size += count;
    this.#most += count;
    this.#shown = undefined;
  }

  /** Nothing is known to be right any more. */
  doubt() {
    this.#isStale = true;
  }

  /**
   * The first records were read.
   * @param {[id: any, model: any][]} read as many as it shows, or all
   * @param {string | null} next the cursor of what follows
   */
  begin(read, next) {
    const before = this.#byId;
    this.#entries = [];
    this.#byId = new Map();
    this.#isBlind = this.#isStale = false;
    this.size = next === null || read.length === 0 ? this.#most : Math.min(this.#most, read.length);
    this.#append(read, next);
    this.#handed = { cursor: next, edge: this.#edge };
    for (const id of before.keys()) if (!this.#byId.has(id)) this.#forget(id);
  }

  /**
   * What follows after the edge was read.
   * @param {[id: any, model: any][]} read
   * @param {string | null} next the cursor of what follows
   */
  extend(read, next) {
    this.#append(read, next);
    this.#trim();
  }

  /** @param {any} cursor @returns {boolean} whether that is the one of the page after what was read first, or of the page after that */
  isNext(cursor) {
    return typeof cursor === 'string' && cursor === this.#handed.cursor;
  }

  /**
   * Somebody has read on from `handed`, and shows it too from now on.
   * @param {[id: any, model: any][]} read
   * @param {string | null} next the cursor of what follows
   */
  grow(read, next) {
    const edge = /** @type {Place} */ (this.#handed.edge);
    this.widen(read.length);
    const isGap = this.#edge !== null && this.#compare(this.#edge, edge) < 0;
    const last = read.length === 0 ? edge : this.#placeOf(/** @type {any} */ (read.at(-1)));
    const place = next === null ? null : last;
    if (isGap || this.#isBlind) this.#isStale = true;
    else if (this.#edge !== null && (place === null || this.#compare(place, this.#edge) >= 0)) this.#append(read, next);
    this.#handed = { cursor: next, edge: place };
  }

  /**
   * The server told of a record.
   * @param {any} id
   * @param {any} model as it is; undefined when it is deleted, or not what is asked for
   */
  put(id, model) {
    const key = String(id);
    const known = this.#byId.get(key);
    if (model === undefined) {
      if (known) this.#remove(known);
      return;
    }
    const place = this.#placeOf([id, model]);
    if (known && this.#compare(known.place, place) === 0) return;
    this.#isBlind ||= this.#isOrdered && !place.every(isExact);
    if (this.#isBlind) {
      // It stays where it is until the server has said where it belongs.
      this.#isStale = true;
      if (known) known.place = place;
      return;
    }
    if (known) this.#remove(known);
    if (this.#edge === null || this.#compare(place, this.#edge) <= 0) this.#insert({ id: key, place });
    else if (known) this.#forget(key);
    this.#trim();
  }

  get #visible() {
    this.#shown ??= new Set((this.#entries.length > this.size ? this.#entries.slice(0, this.size) : this.#entries).map(({ id }) => id));
    return this.#shown;
  }

  /** @param {[id: any, model: any][]} read in the server's order @param {string | null} next */
  #append(read, next) {
    /** @type {Place | undefined} */
    let last;
    for (const [id, model] of read) {
      const key = String(id);
      const place = this.#placeOf([id, model]);
      const isSure = place.every(isExact) && (last === undefined || this.#compare(last, place) < 0);
      this.#isBlind ||= this.#isOrdered && !isSure;
      last = place;
      const known = this.#byId.get(key);
      if (known) this.#remove(known);
      this.#insert({ id: key, place });
    }
    this.#cursor = next ?? undefined;
    this.#edge = next === null ? null : last ?? this.#edge;
  }

  /** @param {[id: any, model: any]} record @returns {Place} */
  #placeOf([id, model]) {
    if (!this.#isOrdered) return [];
    const name = this.#idName();
    return this.#fields.map(({ path }) => {
      if (path === undefined || (path.length === 1 && path[0] === name)) return keyOf(model?.[name] ?? id, true);
      return keyOf(lookup(model, path));
    });
  }

  /** @param {Place} a @param {Place} b @returns {number} */
  #compare(a, b) {
    for (let n = 0; n < a.length; n += 1) {
      const sign = compareKeys(a[n], b[n]);
      if (sign !== 0) return this.#fields[n].descending ? -sign : sign;
    }
    return 0;
  }

  /** @param {Entry} entry @returns {number} where in the order it is, or would be */
  #indexOf({ place }) {
    let [from, to] = [0, this.#entries.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (this.#compare(this.#entries[middle].place, place) < 0) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  /** @param {Entry} entry */
  #insert(entry) {
    const last = this.#entries.at(-1);
    if (this.#isBlind || !this.#isOrdered || !last || this.#compare(last.place, entry.place) < 0) this.#entries.push(entry);
    else this.#entries.splice(this.#indexOf(entry), 0, entry);
    this.#byId.set(entry.id, entry);
    this.#shown = undefined;
  }

  /** @param {Entry} entry */
  #remove(entry) {
    const guess = this.#isOrdered ? this.#indexOf(entry) : -1;
    this.#entries.splice(this.#entries[guess] === entry ? guess : this.#entries.indexOf(entry), 1);
    this.#byId.delete(entry.id);
    this.#shown = undefined;
  }

  /** Forget what is far beyond what is shown. */
  #trim() {
    const most = this.size + Math.max(this.size, SPARES);
    while (this.#entries.length > most) {
      const { id } = /** @type {Entry} */ (this.#entries.pop());
      this.#byId.delete(id);
      this.#edge = /** @type {Entry} */ (this.#entries.at(-1)).place;
      this.#cursor = undefined;
      this.#forget(id);
    }
  }
}

/** @param {any[]} names what to sort by @returns {{path: string[] | undefined, descending: boolean}[]} the id, last, has no path */
function fieldsOf(names) {
  /** @type {Map<string, {path: string[] | undefined, descending: boolean}>} */
  const fields = new Map();
  for (const said of names) {
    const name = said.replace(/^-/, '');
    if (!fields.has(name)) fields.set(name, { path: name.split('.'), descending: said.startsWith('-') });
  }
  const all = [...fields.values()];
  return [...all, { path: undefined, descending: all.at(-1)?.descending ?? false }];
}
