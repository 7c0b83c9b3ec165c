import { guarded } from './report.js';

/**
 * Requests that have no answer yet, in the order they were made: a state machine without input, output or clock.
 *
 * A write keeps its operation id and its content on every retry, so the server can tell a retry from a second write.
 * Writes of one model that name the revision they build on wait for one another: the next builds on what the one before
 * came to.
 *
 * @typedef {object} Entry
 * @property {number} n its number, which is also the counter of its operation id
 * @property {any} handle the handle it was made with
 * @property {Record<string, any>} request what travels: method, model, options, channel, op, rev
 * @property {string} [key] the model's id, of a write to a known model
 * @property {string} [user] who made it, as the page says: who waits for another user's write may wait for ever
 * @property {string | null} [knownAs] the same, as the server says
 * @property {boolean} sent whether it was ever sent
 * @property {boolean} retried whether it was sent more than once
 * @property {boolean} waiting whether it was sent on the present connection
 * @property {boolean} [draining] whether that is one that another has taken the place of: it is not sent again
 * @property {(err: any, result?: any, meta?: any, passed?: boolean) => void} done called once
 */

/** How many requests are under way at once; servers bound what one connection may ask for at a time. */
const WINDOW = 64;

export class Outbox {
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  #counter = 0;

  /** @param {string} client id of this client, part of every operation id: a secret between it and the server */
  constructor(client) {
    this.client = client;
    /** What events have in its place; a server of an earlier version tells all of it to everybody. */
    this.public = client;
  }

  /** The requests without an answer, oldest first. */
  get entries() {
    return [...this.#entries.values()];
  }

  /**
   * @param {{handle: any, request: Record<string, any>, key?: string, done: Entry['done']}} fields
   * @returns {Entry}
   */
  add({ handle, request, key, done }) {
    const n = ++this.#counter;
    if (request.method !== 'read') request.op = { c: this.client, n };
    /** @type {Entry} */
    const entry = { n, handle, request, key, done, sent: false, retried: false, waiting: false };
    this.#entries.set(n, entry);
    return entry;
  }

  /**
   * The requests to send now, marked as sent.
   * @param {(entry: Entry) => boolean} may whether the connection is ready for it
   * @returns {Entry[]}
   */
  due(may) {
    const due = [];
    const busy = new Set();
    let room = WINDOW - this.entries.filter((entry) => entry.waiting && !entry.draining).length;
    for (const entry of this.#entries.values()) {
      if (room <= 0) break;
      const model = entry.key === undefined ? undefined : JSON.stringify([entry.user, entry.knownAs, entry.request.channel, entry.key]);
      const blocked = model !== undefined && busy.has(model);
      if (model !== undefined) busy.add(model);
      if (entry.waiting || blocked || !may(entry)) continue;
      entry.retried = entry.sent;
      entry.waiting = entry.sent = true;
      room -= 1;
      due.push(entry);
    }
    return due;
  }

  /**
   * The connection is gone: what had been sent must be sent again.
   * @returns {Entry[]} the requests that had been sent
   */
  disconnected() {
    const cut = this.entries.filter((entry) => entry.waiting && !entry.draining);
    for (const entry of cut) entry.waiting = false;
    return cut;
  }

  /**
   * @param {any} op an operation id as events carry it, `public part:counter`
   * @returns {Entry | undefined} the request it belongs to, if it is one of ours and unanswered
   */
  find(op) {
    return this.owns(op) ? this.#entries.get(Number(typeof op === 'string' ? op.split(':')[1] : op.n)) : undefined;
  }

  /** @param {Entry} entry @returns {boolean} whether it is unanswered */
  holds({ n }) {
    return this.#entries.has(n);
  }

  /** @param {any} op @returns {boolean} whether this client made the operation */
  owns(op) {
    return (typeof op === 'string' ? op.split(':')[0] : op?.c) === this.public;
  }

  /**
   * An answer came, or the deadline did.
   * @param {Entry} entry
   * @param {any} err the error, null for a success
   * @param {any} [result]
   * @param {any} [meta] the place of the write
   * @param {boolean} [passed] whether the stream had passed that place before
   * @returns {boolean} whether it was still unanswered
   */
  settle(entry, err, result, meta, passed) {
    if (!this.#entries.delete(entry.n)) return false;
    if (!err && meta?.r !== undefined && entry.key !== undefined) {
      for (const other of this.entries) {
        const next = !other.sent && other.key === entry.key && other.handle === entry.handle;
        if (next && other.request.rev === entry.request.rev && other.request.rev !== undefined) other.request.rev = meta.r;
      }
    }
    guarded(() => entry.done(err, result, meta, passed));
    return true;
  }
}
