import { clone } from '../core/json.js';
import { delivering } from './deliver.js';
import { idAttributeOf } from './shown.js';

/**
 * Triggers the backend's events on a collection or model that is not bound, for handlers bound by hand. The object is
 * held weakly: made and forgotten, it costs nothing.
 */
export class Announcer {
  #target;
  #handle;
  #isTold;
  #wantedBy;

  /**
   * @param {any} target a collection, or a model: that hears of its own id
   * @param {import('../core/handle.js').Handle} handle
   * @param {(collection: any) => boolean} isTold whether a collection hears of the same
   * @param {(model: any) => any} wantedBy what the bound collection that a model was in last wants to be told of
   */
  constructor(target, handle, isTold, wantedBy) {
    this.#target = new WeakRef(target);
    this.#handle = handle;
    this.#isTold = isTold;
    this.#wantedBy = wantedBy;
  }

  /** What it wants to be told of. */
  get wanted() {
    return this.#wantedBy(this.#target.deref());
  }

  get handle() {
    return this.#handle;
  }

  /** @param {import('../core/handle.js').News[]} list */
  apply(list) {
    for (const { method, raw, acked } of list) {
      const target = this.#target.deref();
      if (!target || acked) continue;
      // What is triggered on a model comes to its collection too, which need not be told twice.
      const others = !target.models && String(raw?.[target.idAttribute]) !== String(target.id);
      if (others || (!target.models && this.#isTold(target.collection))) continue;
      // Of a delete the id alone is told; what was there, the page may know.
      const record = method === 'delete' ? { ...knownTo(target, raw)?.attributes, ...raw } : raw;
      delivering(() => target.trigger(this.#handle.prefix, method, clone(record)));
      delivering(() => target.trigger(`${this.#handle.prefix}:${method}`, clone(record)));
    }
  }

  /** @param {any} id */
  wants(id) {
    const target = this.#target.deref();
    const { _events: heard = {} } = target ?? {};
    const { prefix } = this.#handle;
    return Boolean(heard.all || heard[prefix] || heard[`${prefix}:update`]) && (target.models || String(id) === String(target.id));
  }

  async reread() {
    this.tell('reset');
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    // A collection that only writes need not hear that it may not listen.
    if (event === 'listening' || event === 'error') return;
    delivering(() => this.#target.deref()?.trigger(`${this.#handle.prefix}:${event}`, ...args));
  }
}

/**
 * @param {any} target a collection, or a model
 * @param {any} raw what was told
 * @returns {any} the model that it is about, where there is one
 */
function knownTo(target, raw) {
  if (!target.models) return target;
  return target.get(raw?.[idAttributeOf(target)]);
}
