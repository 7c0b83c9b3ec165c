/** A few lines of event emitter: what `Handle` offers without a framework. */
export class Emitter {
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();

  /**
   * Call `listener` on every `event`.
   * @param {string} event name of the event
   * @param {(...args: any[]) => void} listener what to call
   * @returns {this}
   */
  on(event, listener) {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners.add(listener));
    return this;
  }

  /**
   * Stop calling `listener`, or every listener of `event` when none is given.
   * @param {string} event name of the event
   * @param {(...args: any[]) => void} [listener] what was given to `on`
   * @returns {this}
   */
  off(event, listener) {
    if (listener) this.#listeners.get(event)?.delete(listener);
    else this.#listeners.delete(event);
    return this;
  }

  /**
   * @param {string} event name of the event
   * @param {...any} args what the listeners get
   */
  emit(event, ...args) {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) listener(...args);
  }
}
