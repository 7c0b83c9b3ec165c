import { guarded } from '../core/report.js';
import { same, snapshot } from '../core/json.js';
import { delivering } from './deliver.js';
import { Mirror, REMOTE, destroyed } from './mirror.js';
import { nameOfId, outdate, shownBy } from './shown.js';

/** Keeps one model like its record on the server. */
export class ModelMirror extends Mirror {
  /** @param {any} raw */
  findId(raw) {
    const { target } = this;
    const shown = shownBy(target, this.handle);
    const name = nameOfId(shown?.raw, target.id, target.idAttribute) ?? target.idAttribute;
    return raw?.[name] ?? raw?.id;
  }

  /** @param {any} id */
  concerns(id) {
    // A route has ids as texts.
    return id !== undefined && String(id) === String(this.target.id);
  }

  /** @param {any} id */
  known(id) {
    return this.concerns(id) ? super.known(id) : undefined;
  }

  /** @param {any} id */
  shows(id) {
    return this.concerns(id);
  }

  /** @param {import('./mirror.js').Turn[]} turns */
  change(turns) {
    for (const { method, truth, rev } of turns) {
      if (method === 'delete') this.destroy(this.target);
      else guarded(() => this.show(this.target, truth, rev));
    }
  }

  /** @param {any} model @param {string} method @param {boolean} [passed] */
  place({ id }, method, passed) {
    const gone = this.replica.isGone(id) || (passed && this.replica.truth(id) === undefined);
    if (method !== 'delete' && gone) this.destroy(this.target);
  }

  /** @param {import('./writes.js').Write} write @param {any} _err */
  undo({ model }, _err) {
    destroyed.delete(model);
  }

  /** @param {boolean} renewed */
  async reread(renewed) {
    const { target, replica } = this;
    this.reading += 1;
    const turn = this.reading;
    replica.restart(renewed);
    if (renewed) outdate(target);
    if (target.isNew()) return;
    replica.hold();
    try {
      const before = snapshot({ ...target.attributes });
      const { result, meta, gone } = await this.#read();
      if (turn !== this.reading) return;
      if (gone) this.destroy(target);
      else {
        replica.learn(target.id, result, meta?.r ?? undefined);
        delivering(() => guarded(() => this.show(target, result, meta?.r ?? undefined)));
      }
      const changed = same(before, { ...target.attributes }) ? [] : [target];
      this.trigger('reset', { added: [], changed, removed: gone ? [target] : [] });
    } finally {
      this.release();
    }
  }

  /** @returns {Promise<{result?: any, meta?: any, gone: boolean}>} */
  #read() {
    const { target } = this;
    const model = { ...target.toJSON(REMOTE), [nameOfId(shownBy(target, this.handle)?.raw, target.id, target.idAttribute) ?? target.idAttribute]: target.id };
    return new Promise((resolve, reject) => {
      this.handle.request({ method: 'read', model }, (err, result, meta) => {
        if (!err) resolve({ result, meta, gone: false });
        else if (err.name === 'NotFound') resolve({ gone: true });
        else reject(err);
      });
    });
  }
}
