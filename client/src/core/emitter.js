import { guarded } from './report.js';

/** A few lines of event emitter: what `Handle` offers without a framework. */
export class Emitter {
  /** What is called for each listener, by event. @type {Map<string, Map<Function, Function>>} */
  #listeners = new Map();

  /**
   * Call `listener` on every `event`.
   * @param {string} event name of the event
   * @param {(...args: any[]) => void} listener what to call
   * @returns {this}
   */
  on(event, listener) {
    return this.#add(event, listener, listener);
  }

  /**
   * Call `listener` on the next `event` alone.
   * @param {string} event name of the event
   * @param {(...args: any[]) => void} listener what to call
   * @returns {this}
   */
  once(event, listener) {
    return this.#add(event, listener, (/** @type {any[]} */ ...args) => {
      this.off(event, listener);
      listener(...args);
    });
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
    for (const listener of this.listeners(event)) guarded(() => listener(...args));
  }

  /** Whether anybody listens to anything. */
  get heard() {
    return [...this.#listeners.values()].some((listeners) => listeners.size > 0);
  }

  /** @param {string} event name of the event @returns {Function[]} what to call */
  listeners(event) {
    return [...(this.#listeners.get(event)?.values() ?? [])];
  }

  /** @param {string} event @param {Function} listener @param {Function} called */
  #add(event, listener, called) {
    const listeners = this.#listeners.get(event) ?? new Map();
    this.#listeners.set(event, listeners.set(listener, called));
    return this;
  }
}
