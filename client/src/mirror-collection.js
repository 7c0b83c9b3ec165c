import { isPaged, matches, said } from './core/query.js';
import { Mirror, REMOTE, destroyed } from './mirror.js';

/** Keeps a collection like its channel: created models come in, deleted ones go; an update never adds a model. */
export class CollectionMirror extends Mirror {
  /** The application's own latest filter, used again when everything must be read anew. @type {any} */
  data = undefined;
  /** The same, if the server took it for a query: then what comes must fit it. @type {any} */
  query = undefined;

  /** @param {any} raw */
  idOf(raw) {
    const { target } = this;
    const id = target.modelId ? target.modelId(raw) : raw[target.model.prototype.idAttribute ?? 'id'];
    return id ?? this.prepare(raw)?.id;
  }

  /** @param {any} model */
  replaced(model) {
    const held = this.target.get(model.id);
    return held !== undefined && held !== null && held !== model;
  }

  /** @param {any} raw @returns {any} a model that is not in the collection yet */
  prepare(raw) {
    return this.target._prepareModel({ ...raw }, { parse: true, ...REMOTE }) || undefined;
  }

  /** @param {string} method @param {any} id @param {any} raw @param {any} before @param {any} [maker] */
  change(method, id, raw, before, maker) {
    const model = id === undefined ? undefined : this.target.get(id);
    const leaving = [...this.pending].some((write) => write.method === 'delete' && write.model.id === id);
    const fits = maker || this.query === undefined || matches(this.query, raw);
    // What enters a list enters it by any change, but nothing enters a page.
    const enters = this.query === undefined ? method === 'create' : maker || !isPaged(this.query);
    if (method === 'delete') {
      if (model) this.destroy(model);
    } else if (!fits) {
      this.target.remove(model, REMOTE);
    } else if (model) {
      this.merge(model, raw, before);
    } else if (enters && !leaving) {
      const added = maker ?? this.prepare(raw);
      if (added) this.target.add(added, REMOTE);
    }
  }

  /** @param {import('./mirror.js').Write} write */
  undo({ model, method, index, truth }) {
    if (method === 'create' && model.isNew()) this.target.remove(model, REMOTE);
    const now = this.replica.truth(model.id);
    if (method !== 'delete' || now === undefined || this.target.get(model.id)) return;
    destroyed.delete(model);
    this.merge(model, now, truth);
    this.target.add(model, { at: Math.min(index, this.target.length), ...REMOTE });
  }

  /**
   * A created model is about to get its id: a copy of it that came by another way leaves.
   * @param {any} model
   * @param {any} result
   */
  settle(model, result) {
    const id = typeof result === 'object' && result !== null ? this.idOf(result) : undefined;
    const copy = id === undefined ? undefined : this.target.get(id);
    if (copy && copy !== model) this.target.remove(copy, REMOTE);
  }

  /** @param {boolean} renewed */
  reread(renewed) {
    this.replica.restart(renewed);
    return this.fetch({ ...(this.data !== undefined && { data: this.data }), remove: false, reset: false });
  }

  /**
   * The reply to a fetch.
   * @param {any} fetched the collection, or a model of it
   * @param {any} response
   * @param {any} options of the fetch
   * @param {() => void} succeed lets Backbone have it
   * @param {any} [meta] revisions, in the response's order
   */
  received(fetched, response, options, succeed, meta) {
    const { target, replica } = this;
    if (fetched !== target) {
      super.received(fetched, response, options, succeed, meta);
      return;
    }
    const resync = options.resync !== undefined;
    // A cursor goes on with the query before it; to read that again is to begin again.
    if (!resync && said(options.data, 'cursor') === undefined) this.data = options.data;
    // A server may give its own meaning to `data`; then it says nothing of what others write.
    const fits = Array.isArray(response) && response.every((/** @type {any} */ raw) => matches(this.data, raw));
    this.query = meta?.next !== undefined && fits ? this.data : undefined;
    /** @type {any} */
    let list = response;
    // Only the collection's own parse knows where in the response the models are; listen in on it.
    const own = Object.getOwnPropertyDescriptor(target, 'parse');
    const { parse } = target;
    target.parse = (/** @type {any[]} */ ...args) => (list = parse.apply(target, args));
    const changes = resync ? this.watch() : undefined;
    const before = new Map(target.models.map((/** @type {any} */ model) => [model.id, replica.truth(model.id)]));
    try {
      this.keepingUnsaved(succeed);
    } finally {
      if (own) Object.defineProperty(target, 'parse', own);
      else delete target.parse;
    }
    const revs = new Map();
    if (Array.isArray(meta?.r)) for (const [i, rev] of meta.r.entries()) revs.set(this.idOf(response[i]), rev ?? undefined);
    const ids = this.learn(Array.isArray(list) ? list : list ? [list] : [], before, revs);
    if (!resync) return;
    // What was told of since the read was sent is for the telling to decide.
    for (const { raw } of replica.held) ids.add(String(this.idOf(raw)));
    const gone = target.filter((/** @type {any} */ model) => !model.isNew() && !ids.has(String(model.id)));
    replica.forget(ids);
    for (const model of gone) {
      if (this.query === undefined) this.destroy(model);
      else target.remove(model, REMOTE);
    }
    changes?.end();
    this.trigger('reset', changes?.result);
  }

  /** @param {any} fetched @param {() => void} succeed */
  receivedLate(fetched, succeed) {
    if (fetched !== this.target) {
      super.receivedLate(fetched, succeed);
      return;
    }
    const held = [...this.target.models];
    this.keepingUnsaved(succeed);
    const known = (/** @type {any} */ model) => model.isNew() || this.replica.truth(model.id) !== undefined;
    if (this.query !== undefined && isPaged(this.query)) this.target.set(held.filter(known), REMOTE);
    for (const model of this.target.models.filter((/** @type {any} */ one) => !known(one))) this.destroy(model);
    for (const truth of this.replica.models) this.change('create', this.idOf(truth), truth, undefined);
  }

  /**
   * Backbone drops what the server does not have; what is on its way there stays.
   * @param {() => void} succeed lets Backbone have a reply
   */
  keepingUnsaved(succeed) {
    const { target } = this;
    const unsaved = [...this.pending].filter(({ model, method }) => method === 'create' && target.includes(model));
    succeed();
    target.add(unsaved.map(({ model }) => model), REMOTE);
  }

  /**
   * @param {any[]} list models read
   * @param {Map<any, any>} before what the server held of them earlier, by id
   * @param {Map<any, number | undefined>} revs their revisions, by id
   * @returns {Set<string>} their ids
   */
  learn(list, before, revs) {
    const ids = new Set();
    for (const raw of list) {
      const id = this.idOf(raw);
      if (id === undefined || id === null) continue;
      ids.add(String(id));
      this.replica.learn(id, raw, revs.get(id));
      const model = this.target.get(id);
      if (model && before.get(id) !== undefined) this.merge(model, raw, before.get(id));
    }
    for (const { model, method } of this.pending) {
      if (method === 'delete') this.target.remove(this.target.get(model.id), REMOTE);
      else this.reassert(model);
    }
    return ids;
  }

  /** Note which models come, change and go. */
  watch() {
    const result = { added: new Set(), changed: new Set(), removed: new Set() };
    const { target } = this;
    const note = { add: result.added, change: result.changed, remove: result.removed };
    const listeners = Object.entries(note).map(([event, models]) => [event, (/** @type {any} */ model) => models.add(model)]);
    for (const [event, listener] of listeners) target.on(event, listener);
    const end = () => listeners.forEach(([event, listener]) => target.off(event, listener));
    return { end, get result() { return Object.fromEntries(Object.entries(result).map(([name, models]) => [name, [...models]])); } };
  }
}
