import { same } from './core/json.js';
import { Replica } from './core/replica.js';

/**
 * A bound collection or model: it takes what the backend tells, knows what the server holds, and undoes local changes
 * that the server refuses.
 *
 * @typedef {import('./core/follower.js').Meta} Meta
 * @typedef {{model: any, method: string, mine: Record<string, any>, index: number}} Write a change made before its answer
 */

/** Passed with every change that comes from the server, for listeners that tell the two apart. */
export const REMOTE = { remote: true };

/** Models whose `destroy` was triggered; a model bound twice is destroyed once. */
export const destroyed = new WeakSet();

export class Mirror {
  replica = new Replica();
  /** @type {Set<Write>} */
  pending = new Set();

  /**
   * @param {any} target the bound collection or model
   * @param {import('./core/handle.js').Handle} handle
   */
  constructor(target, handle) {
    this.target = target;
    this.handle = handle;
  }

  /** @param {string} event @param {...any} args */
  tell(event, ...args) {
    if (event === 'error') this.target.trigger('error', this.target, args[0], {});
    else if (event !== 'listening') this.trigger(event, ...args);
  }

  /** @param {string} event @param {...any} args */
  trigger(event, ...args) {
    this.target.trigger(`${this.handle.prefix}:${event}`, ...args);
  }

  /** @param {string} method @param {any} raw @param {Meta} [meta] */
  apply(method, raw, meta) {
    if (!this.replica.keep({ method, raw, meta })) this.take(method, raw, meta);
  }

  /** @param {string} method @param {any} raw @param {Meta} [meta] */
  take(method, raw, meta) {
    const id = this.idOf(raw);
    if (!this.concerns(id)) return;
    const before = this.replica.truth(id);
    if (id !== undefined && !this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r)) return;
    this.change(method, id, raw, before);
    this.target.trigger(this.handle.prefix, method, raw);
    this.trigger(method, raw);
  }

  /**
   * A write of the target's own succeeded.
   * @param {string} method
   * @param {any} sent
   * @param {any} result
   * @param {Meta} [meta]
   */
  acked(method, sent, result, meta) {
    const told = typeof result === 'object' && result !== null;
    const known = this.replica.truth(this.idOf(sent));
    const raw = told ? result : method === 'patch' ? { ...known, ...sent } : sent;
    const id = this.idOf(raw) ?? this.idOf(sent);
    if (id === undefined) return;
    this.replica.accept(id, method === 'delete' ? undefined : raw, meta?.r);
    this.replica.keep({ method, raw, meta, own: true });
  }

  /** A read that was sent has ended: what was told meanwhile may be applied. */
  release() {
    for (const { method, raw, meta, own } of this.replica.release()) {
      const id = own && this.idOf(raw);
      if (!own) this.take(method, raw, meta);
      else if (meta?.r === undefined || (this.replica.rev(id) ?? 0) <= meta.r) {
        this.replica.learn(id, method === 'delete' ? undefined : raw, meta?.r);
        this.change(method, id, raw, undefined);
      }
    }
  }

  /**
   * A change of the target's own goes out, already made locally.
   * @param {any} model
   * @param {string} method
   * @param {Record<string, any>} sent
   * @returns {Write}
   */
  begin(model, method, sent) {
    const truth = this.attributes(model, this.replica.truth(model.id));
    /** @type {Record<string, any>} */
    const mine = {};
    if (method === 'update' || method === 'patch') {
      const keys = method === 'patch' ? Object.keys(sent) : Object.keys({ ...truth, ...sent });
      for (const key of keys) {
        if (same(model.get(key), sent[key]) && !(truth && same(truth[key], sent[key]))) mine[key] = sent[key];
      }
    }
    const write = { model, method, mine, index: this.target.models ? this.target.indexOf(model) : -1 };
    this.pending.add(write);
    return write;
  }

  /**
   * The server refused a write: go back to what it holds, except where the user has changed more since.
   * @param {any} model
   * @param {Write | undefined} write the local change, if it had been made already
   * @param {any} err
   * @param {any} sent
   */
  refused(model, write, err, sent) {
    const before = this.attributes(model, this.replica.truth(model.id));
    const theirs = err?.name === 'Conflict' ? err.current : undefined;
    if (theirs && model.id !== undefined) this.replica.accept(model.id, theirs, err.rev);
    const truth = this.attributes(model, this.replica.truth(model.id));
    if (truth && before) this.restore(model, write?.mine ?? {}, before, truth);
    if (write) this.undo(write);
    if (theirs) this.trigger('conflict', model, sent, theirs);
  }

  /**
   * @param {any} model
   * @param {Record<string, any>} mine
   * @param {Record<string, any>} before
   * @param {Record<string, any>} truth
   */
  restore(model, mine, before, truth) {
    for (const key of Object.keys({ ...before, ...truth, ...mine })) {
      const value = model.get(key);
      const untouched = same(value, key in mine ? mine[key] : before[key]);
      if (!untouched || this.overlay(model, key)) continue;
      if (key in truth) model.set(key, truth[key], REMOTE);
      else model.unset(key, REMOTE);
    }
  }

  /** @param {any} model @param {string} key @returns {Write | undefined} the pending write that sets the attribute */
  overlay(model, key) {
    return [...this.pending].find((write) => write.model === model && key in write.mine);
  }

  /**
   * Set what the server holds; attributes that it no longer has go, those with a pending change stay.
   * @param {any} model
   * @param {any} raw
   * @param {any} before what the server held earlier
   */
  merge(model, raw, before) {
    const attributes = this.attributes(model, raw) ?? {};
    const gone = Object.keys(this.attributes(model, before) ?? {}).filter((key) => !(key in attributes));
    const pending = (/** @type {string} */ key) => this.overlay(model, key);
    const settled = Object.keys(attributes).filter((key) => !pending(key));
    model.set(Object.fromEntries(settled.map((key) => [key, attributes[key]])), REMOTE);
    for (const key of gone) if (!pending(key) && model.has(key)) model.unset(key, REMOTE);
  }

  /** @param {any} model @param {any} raw @returns {Record<string, any> | undefined} */
  attributes(model, raw) {
    return raw === undefined ? undefined : model.parse(raw, REMOTE);
  }

  /** @param {any} model */
  destroy(model) {
    if (destroyed.has(model)) return;
    destroyed.add(model);
    model.trigger('destroy', model, model.collection, REMOTE);
  }

  /**
   * The reply to the fetch of one model.
   * @param {any} model
   * @param {any} response
   * @param {any} _options
   * @param {() => void} succeed lets Backbone have it
   * @param {any} [meta] the model's revision
   */
  received(model, response, _options, succeed, meta) {
    const before = this.replica.truth(model.id);
    succeed();
    if (model.isNew() || typeof response !== 'object' || response === null) return;
    this.replica.learn(model.id, response, meta?.r ?? undefined);
    if (before !== undefined) this.merge(model, response, before);
    for (const write of this.pending) if (write.model === model) model.set(write.mine, REMOTE);
  }

  /** @param {any} options how to fetch @returns {Promise<void>} */
  fetch(options) {
    return new Promise((resolve, reject) => {
      const done = { success: () => resolve(), error: (/** @type {any} */ _, /** @type {any} */ err) => reject(err) };
      this.target.fetch({ ...options, ...done, resync: this, remote: true });
    });
  }

  /** @param {any} _raw @returns {any} @abstract */
  idOf(_raw) {}

  /** @param {any} _id @returns {boolean} */
  concerns(_id) {
    return true;
  }

  /** @param {string} _method @param {any} _id @param {any} _raw @param {any} _before @abstract */
  change(_method, _id, _raw, _before) {}

  /** @param {Write} _write @abstract */
  undo(_write) {}
}

/** Keeps one model like its record on the server. */
export class ModelMirror extends Mirror {
  /** @param {any} raw */
  idOf(raw) {
    return raw?.[this.target.idAttribute] ?? this.target.parse({ ...raw }, REMOTE)?.[this.target.idAttribute];
  }

  /** @param {any} id */
  concerns(id) {
    return id !== undefined && id === this.target.id;
  }

  /** @param {string} method @param {any} _id @param {any} raw @param {any} before */
  change(method, _id, raw, before) {
    if (method === 'delete') this.destroy(this.target);
    else this.merge(this.target, raw, before);
  }

  /** @param {boolean} renewed */
  async reread(renewed) {
    if (renewed) this.replica.renew();
    if (this.target.isNew()) return;
    const held = { ...this.target.attributes };
    try {
      await this.fetch({});
    } catch (err) {
      if (/** @type {any} */ (err).name !== 'NotFound') throw err;
      this.destroy(this.target);
    }
    const changed = same(held, this.target.attributes) ? [] : [this.target];
    this.trigger('reset', { added: [], changed, removed: destroyed.has(this.target) ? [this.target] : [] });
  }

  settle() {}
}
