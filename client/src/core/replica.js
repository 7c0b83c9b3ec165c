/**
 * The records of the server as the client knows them, by id: each model and its latest revision, without I/O.
 *
 * Models that are deleted, or that nothing shows, are remembered for a while: an older notification, come by another
 * stream, must not bring them back.
 */

/** How many models are remembered that nothing shows, and how many notifications wait for the end of a read. */
const ASIDE = 1000;
const PENDING = 10_000;

export class Replica {
  /** `loose`: what was told since without a revision. @type {Map<string, {rev: number | undefined, model: any, loose?: boolean}>} */
  #records = new Map();
  /** @type {Set<string>} */
  #aside = new Set();
  #reads = 0;
  /** Grows whenever everything is read anew; what was asked for in an earlier era is out of date. */
  era = 0;
  /** Notifications that wait for the end of a read. @type {any[]} */
  pending = [];
  /** Whether more came than may wait. */
  overflown = false;

  /** @param {any} id @returns {number | undefined} the latest revision known */
  rev(id) {
    return this.#records.get(String(id))?.rev;
  }

  /** @param {any} id @returns {number | undefined} the revision that the model as it is known is just that of */
  at(id) {
    const record = this.#records.get(String(id));
    return record?.loose ? undefined : record?.rev;
  }

  /** @param {any} id @returns {boolean} whether the model was there once and is deleted */
  isGone(id) {
    return this.#records.has(String(id)) && this.truth(id) === undefined;
  }

  /** @param {any} id @returns {any} the model as the server sent it last; undefined when it is not known, or deleted */
  truth(id) {
    return this.#records.get(String(id))?.model;
  }

  /**
   * Take what the server says of a model.
   * @param {any} id
   * @param {any} model the model; undefined when it is deleted
   * @param {number} [rev] its revision, if told
   * @returns {boolean} false when that, or something newer, is known already
   */
  accept(id, model, rev) {
    const key = String(id);
    const record = this.#records.get(key);
    if (rev !== undefined && record?.rev !== undefined && rev <= record.rev) return false;
    this.#know(key, record, model, rev);
    return true;
  }

  /**
   * Take one model of what was read, or once more what was known before the read.
   * @param {any} id
   * @param {any} model
   * @param {number} [rev] its revision, if told
   */
  learn(id, model, rev) {
    const key = String(id);
    const record = this.#records.get(key);
    if (rev === undefined || record?.rev === undefined || rev >= record.rev) this.#know(key, record, model, rev);
  }

  /** Nothing shows the model, or not any more: it need not be remembered for long. @param {any} id */
  aside(id) {
    const key = String(id);
    if (!this.#records.has(key)) return;
    this.#aside.delete(key);
    this.#aside.add(key);
    if (this.#aside.size <= ASIDE) return;
    const [oldest] = this.#aside;
    this.#aside.delete(oldest);
    this.#records.delete(oldest);
  }

  /**
   * Everything was read: what is not in it is gone.
   * @param {Set<string>} ids the ids read
   */
  forget(ids) {
    for (const [key, record] of this.#records) {
      if (ids.has(key) || record.model === undefined) continue;
      record.model = undefined;
      this.aside(key);
    }
  }

  /**
   * Everything is to be read: what waits was told before, and says nothing more.
   * @param {boolean} renewed whether revisions may have begun anew, so that those known say nothing either
   */
  restart(renewed) {
    this.era += 1;
    this.pending = [];
    this.overflown = false;
    if (renewed) for (const record of this.#records.values()) record.rev = undefined;
  }

  /**
   * A read begins: until it ends, notifications wait, for the read may tell of less than they do.
   * @returns {number} the era
   */
  hold() {
    this.#reads += 1;
    return this.era;
  }

  /** Whether a read is under way. */
  get reading() {
    return this.#reads > 0;
  }

  /**
   * Keep a notification if a read is under way.
   * @param {any} notification
   * @returns {boolean} whether it was kept
   */
  keep(notification) {
    if (!this.reading) return false;
    if (this.pending.length < PENDING) this.pending.push(notification);
    else this.overflown = true;
    return true;
  }

  /** A read ended. @returns {any[]} the notifications that may be applied now */
  release() {
    this.#reads -= 1;
    return this.#reads > 0 ? [] : this.pending.splice(0);
  }

  /**
   * @param {string} key
   * @param {{rev: number | undefined, model: any, loose?: boolean} | undefined} record what was known of it
   * @param {any} model
   * @param {number | undefined} rev none: the one that was known stays
   */
  #know(key, record, model, rev) {
    if (record) {
      record.model = model;
      record.rev = rev ?? record.rev;
      record.loose = rev === undefined;
    } else this.#records.set(key, { rev, model });
    if (this.#aside.size > 0) this.#aside.delete(key);
    if (model === undefined) this.aside(key);
  }
}
