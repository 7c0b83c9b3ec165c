import { same } from './core/json.js';
import { Mirror, REMOTE, destroyed } from './mirror.js';

/** Keeps one model like its record on the server. */
export class ModelMirror extends Mirror {
  /** @param {any} raw */
  idOf(raw) {
    return raw?.[this.target.idAttribute] ?? this.target.parse({ ...raw }, REMOTE)?.[this.target.idAttribute];
  }

  /** @param {any} id */
  concerns(id) {
    // A route has ids as texts.
    return id !== undefined && String(id) === String(this.target.id);
  }

  /** @param {string} method @param {any} _id @param {any} raw @param {any} before */
  change(method, _id, raw, before) {
    if (method === 'delete') this.destroy(this.target);
    else this.merge(this.target, raw, before);
  }

  /** @param {boolean} renewed */
  async reread(renewed) {
    this.replica.restart(renewed);
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
