import { clone } from '../core/json.js';
import { REMOTE } from './mirror.js';
import { idAttributeOf, nameOfId, note, shownBy, watchingParse } from './shown.js';

/** Makes the models of a collection of records, and knows what the application's classes make of these. */
export class Factory {
  #mirror;
  /** What the id is called on the server, once known. @type {string | undefined} */
  idName = undefined;
  /** What `parse` made of what models were made of. @type {Map<any, any> | undefined} */
  #outcomes = undefined;
  /** A model that was made to know its id. @type {{raw: any, model: any} | undefined} */
  #ready = undefined;

  /** @param {import('./mirror.js').Mirror} mirror of the collection */
  constructor(mirror) {
    this.#mirror = mirror;
  }

  /** @param {any} raw a record @returns {any} the id of a model that is made of it */
  findId(raw) {
    const named = raw[this.idName ?? idAttributeOf(this.#mirror.target)];
    if (named !== undefined && named !== null) return named;
    // Only a model made of it knows its id; it may be wanted right away.
    this.#ready = { raw, model: this.make(raw, undefined) };
    return this.#ready.model?.id;
  }

  /** @param {any} raw a record @param {any} id of a model that shows it @param {string} idAttribute of that model */
  learnName(raw, id, idAttribute) {
    this.idName ??= nameOfId(raw, id, idAttribute);
  }

  /** @param {any} raw @param {number | undefined} rev @returns {any} a new model that shows it */
  make(raw, rev) {
    const { target, handle } = this.#mirror;
    const ready = this.#ready?.raw === raw ? this.#ready?.model : undefined;
    this.#ready = undefined;
    if (ready) {
      note(ready, handle, { ...shownBy(ready, handle), rev, raw, parsed: shownBy(ready, handle)?.base });
      return ready;
    }
    const input = clone(raw);
    let model = /** @type {any} */ (undefined);
    let parsed;
    this.watch(() => {
      model = target._prepareModel(input, { parse: true, ...REMOTE }) || undefined;
      parsed = this.#outcomes?.get(input);
    });
    if (!model) return undefined;
    note(model, handle, { rev, raw, parsed });
    this.learnName(raw, model.id, model.idAttribute);
    return model;
  }

  /** @param {() => void} run what has models parsed, whose outcomes are noted meanwhile */
  watch(run) {
    if (this.#outcomes) {
      run();
      return;
    }
    const outcomes = (this.#outcomes = new Map());
    try {
      watchingParse([], this.#mirror.target.model, (_, input, outcome) => outcomes.set(input, outcome), run);
    } finally {
      this.#outcomes = undefined;
    }
  }
}
