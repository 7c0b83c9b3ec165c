import { Emitter } from './emitter.js';
import { guarded } from './report.js';

const OWN = ['connect', 'disconnect', 'connect_error'];
const MANAGERS = ['reconnect', 'reconnect_attempt', 'reconnect_error', 'reconnect_failed'];

/**
 * A Socket.IO namespace of the connection, for events of your own. It stays the same when `connect` is called again.
 *
 * Events, for `on` and `once`: those that the server emits there; `connect`, `disconnect (reason)`, `connect_error (err)`;
 * `reconnect (attempts)`, `reconnect_attempt`, `reconnect_error` and `reconnect_failed`.
 *
 * @example
 * const chat = Backbone.io.connect().of('chat');
 * chat.on('said', (text) => console.log(text));
 * chat.emit('say', 'hello', (answer) => console.log(answer));
 */
export class Namespace extends Emitter {
  #socket = /** @type {any} */ (null);
  #join;

  /** @param {() => void} join called before the namespace is used */
  constructor(join) {
    super();
    this.#join = join;
  }

  /** The id of this client in the namespace; undefined without a connection. @returns {string | undefined} */
  get id() {
    return this.#socket?.id;
  }

  /** Whether there is a connection. @returns {boolean} */
  get connected() {
    return this.#socket?.connected ?? false;
  }

  /** @param {string} event @param {(...args: any[]) => void} listener */
  on(event, listener) {
    this.#join();
    return super.on(event, listener);
  }

  /**
   * Emit an event to the server, now or as soon as there is a connection.
   * @param {string} event name of the event
   * @param {...any} args what the server gets; a function last is called with its answer
   * @throws {Error} when `connect` was never called
   */
  emit(event, ...args) {
    this.#join();
    if (!this.#socket) throw new Error(`emit("${event}"): there is no connection; call connect() first`);
    this.#socket.emit(event, ...args);
  }

  /**
   * @param {any} socket the Socket.IO socket to use from now on, null for none
   * @returns {any} the one before
   */
  use(socket) {
    const before = this.#socket;
    this.#socket = socket;
    if (!socket || socket === before) return before;
    const pass = (/** @type {string} */ event, /** @type {any[]} */ ...args) => {
      // What a page's listener throws must not keep the event from anyone else.
      if (this.#socket === socket) for (const listener of this.listeners(event)) guarded(() => listener(...args));
    };
    socket.onAny(pass);
    for (const event of OWN) socket.on(event, (/** @type {any[]} */ ...args) => pass(event, ...args));
    for (const event of MANAGERS) socket.io.on(event, (/** @type {any[]} */ ...args) => pass(event, ...args));
    return before;
  }
}
