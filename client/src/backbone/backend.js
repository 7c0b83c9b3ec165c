/**
 * The `backend` of a collection or model: what was said of it, and what pages written for backbone.io find there.
 *
 * It reads as its name, and may be given wherever a backend is named.
 *
 * @example
 * const todos = new Todos();
 * todos.backend.ready(() => console.log(`${todos.backend} listens, the server says`, todos.backend.options));
 */
export class Backend {
  /** @type {() => import('../core/handle.js').Handle} */
  #handle;

  /**
   * @param {{name: string, channel?: string, persist?: boolean, query?: any}} spec
   * @param {() => import('../core/handle.js').Handle} handle finds its handle
   */
  constructor({ name, channel = '', persist = false, query }, handle) {
    this.name = name;
    /** The channel's name, empty for the default channel. */
    this.channel = channel;
    this.persist = persist;
    /** The query of the collection; `setQuery` changes it. @type {Record<string, any> | (() => Record<string, any> | undefined) | undefined} */
    this.query = query;
    this.#handle = handle;
  }

  /** The namespace's socket, for events of your own. @returns {import('../core/namespace.js').Namespace} */
  get socket() {
    return this.#handle().session.connection.of(this.name);
  }

  /** What the server told its clients, `event` first of all; undefined before it has. @returns {Record<string, any> | undefined} */
  get options() {
    return this.#handle().options;
  }

  /**
   * Send a message to the channel's other listeners, who are told now or never: collections trigger `backend:message:<name> (data, from)`.
   * @param {string} name a name that the backend declares with `@message`
   * @param {any} [data] what is told, as JSON
   * @returns {Promise<void>} resolves when the server has taken it; rejects with an error
   */
  send(name, data) {
    return this.#handle().send(name, data);
  }

  /** @param {() => void} callback called once the server lets this client listen; at once if it does already */
  ready(callback) {
    const handle = this.#handle();
    if (handle.options) {
      callback();
      return;
    }
    const listener = () => {
      handle.off('listening', listener);
      callback();
    };
    handle.on('listening', listener);
  }

  toString() {
    return this.name;
  }
}
