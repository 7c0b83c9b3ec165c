/**
 * Triggers the backend's events on a collection or model that is not bound, for handlers bound by hand. The object is
 * held weakly: made and forgotten, it costs nothing.
 */
export class Announcer {
  #target;
  #handle;
  #isTold;

  /**
   * @param {any} target a collection, or a model: that hears of its own id
   * @param {import('./core/handle.js').Handle} handle
   * @param {(collection: any) => boolean} isTold whether a collection hears of the same
   */
  constructor(target, handle, isTold) {
    this.#target = new WeakRef(target);
    this.#handle = handle;
    this.#isTold = isTold;
  }

  get handle() {
    return this.#handle;
  }

  /**
   * @param {string} method
   * @param {any} raw
   * @param {any} [_meta]
   * @param {boolean} [acked] whether it is a write of this page that was answered, and told of, before
   */
  apply(method, raw, _meta, acked) {
    const target = this.#target.deref();
    if (!target || acked) return;
    // What is triggered on a model comes to its collection too, which need not be told twice.
    if (!target.models && (String(raw?.[target.idAttribute]) !== String(target.id) || this.#isTold(target.collection))) return;
    target.trigger(this.#handle.prefix, method, raw);
    target.trigger(`${this.#handle.prefix}:${method}`, raw);
  }

  async reread() {
    this.tell('reset');
  }

  /** @param {string} event */
  tell(event) {
    // A collection that only writes need not hear that it may not listen.
    if (event !== 'listening' && event !== 'error') this.#target.deref()?.trigger(`${this.#handle.prefix}:${event}`);
  }
}
