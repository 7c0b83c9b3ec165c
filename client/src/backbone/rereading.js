import { clone } from '../core/json.js';
import { joined } from '../core/pages.js';
import { guarded } from '../core/report.js';
import { REMOTE } from './mirror.js';
import { turnPage } from './page.js';

/** A bound collection of which everything was read anew: what is different changes, and the application hears of it in one event. */
export class Rereading {
  #mirror;
  #factory;
  #windowed;
  /** The ids of what there is. @type {Set<string>} */
  #ids = new Set();
  /** What the collection is given. @type {any[]} */
  #items = [];

  /**
   * @param {import('./mirror-collection.js').CollectionMirror} mirror of the collection
   * @param {import('./factory.js').Factory} factory of its models
   * @param {import('./windowed.js').Windowed} windowed its window
   */
  constructor(mirror, factory, windowed) {
    this.#mirror = mirror;
    this.#factory = factory;
    this.#windowed = windowed;
  }

  /** @param {import('../core/pages.js').Part[]} parts */
  take(parts) {
    const mirror = this.#mirror;
    const { target, replica, asked } = mirror;
    const isOther = asked.isChanging;
    asked.settle();
    this.#adopt(parts);
    const { window } = this.#windowed;
    const { result, end } = watching(target);
    for (const { raw } of replica.pending) this.#ids.add(String(mirror.idOf(raw)));
    for (const part of parts) this.#read(part);
    if (window) this.#windowed.turn(window, parts.flatMap((part) => part.result), parts.at(-1)?.meta.next, 'begin');
    guarded(() => mirror.set(this.#items));
    const gone = target.filter((/** @type {any} */ model) => !model.isNew() && !this.#ids.has(String(model.id)));
    replica.forget(this.#ids);
    if (asked.query === undefined && !window && !isOther) for (const model of gone) mirror.destroy(model);
    else if (gone.length > 0) target.remove(gone, REMOTE);
    if (window) this.#windowed.arrange(new Map(window.ids.map((id) => [id, undefined])));
    end();
    turnPage(target, {}, joined(parts, asked.options.data).meta);
    mirror.trigger('reset', Object.fromEntries(Object.entries(result).map(([name, models]) => [name, [...models]])));
  }

  /** What was asked for was read: keep to it. @param {import('../core/pages.js').Part[]} parts */
  #adopt(parts) {
    const { asked } = this.#mirror;
    const isQuery = parts.every(({ result, meta }) => meta?.next !== undefined && Array.isArray(result));
    asked.accept(isQuery, parts.map(({ result }) => result));
    this.#windowed.adopt(asked.options.data, isQuery);
  }

  /** @param {import('../core/pages.js').Part} part */
  #read({ result: response, meta }) {
    const { target } = this.#mirror;
    const parsed = guarded(() => target.parse(clone(response), { ...REMOTE }));
    const raws = Array.isArray(parsed) ? parsed : parsed ? [parsed] : [];
    const revs = Array.isArray(response) && Array.isArray(meta?.r) ? new Map(response.map((raw, n) => [String(this.#mirror.idOf(raw)), meta.r[n]])) : new Map();
    this.#factory.watch(() => {
      for (const raw of raws) guarded(() => this.#readOne(clone(raw), revs));
    });
  }

  /** @param {any} raw @param {Map<string, number>} revs */
  #readOne(raw, revs) {
    const mirror = this.#mirror;
    const id = mirror.findId(raw);
    const rev = revs.get(String(id)) ?? undefined;
    this.#ids.add(String(id));
    mirror.replica.learn(id, raw, rev);
    if (mirror.isLeaving(id, undefined)) return;
    const model = mirror.target.get(id);
    if (!model && this.#windowed.window) return;
    const item = model ? mirror.merging(model, raw, rev) : this.#factory.make(raw, rev);
    if (item) this.#items.push(item);
  }
}

/**
 * Note which models a collection is given, keeps and loses.
 * @param {any} target
 * @returns {{result: Record<'added' | 'changed' | 'removed', Set<any>>, end: () => void}}
 */
function watching(target) {
  const result = { added: new Set(), changed: new Set(), removed: new Set() };
  const ends = Object.entries({ add: result.added, change: result.changed, remove: result.removed }).map(([event, models]) => {
    const listener = (/** @type {any} */ model) => models.add(model);
    target.on(event, listener);
    return () => target.off(event, listener);
  });
  return {
    result,
    end() {
      for (const end of ends) end();
    },
  };
}
