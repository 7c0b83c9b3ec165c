import { unavailable } from './errors.js';
import { Session } from './session.js';

/**
 * @typedef {object} ConnectOptions
 * @property {number} [deadline] milliseconds a sync may take, 30,000 by default. Once connected, the clock stands still
 *   for writes while there is no connection: they wait for it. Each that breaks with a sync on its way costs it 2,000.
 * @property {number} [queueLimit] how many requests to one backend may wait for an answer, 1,000 by default
 * @property {number} [jitter] milliseconds over which clients that lost the same connection spread, 1,000 by default
 */

/**
 * One connection to a server, carrying any number of backends and channels.
 *
 * @example
 * const connection = connect('http://localhost:3000', { auth: { token } });
 * const todos = connection.backend('todos');
 */
export class Connection {
  deadline = 30_000;
  queueLimit = 1000;
  jitter = 1000;
  /** Address of the server, once known. */
  url = '';
  /** This client's id, part of every operation id. */
  client = Array.from({ length: 4 }, () => Math.random().toString(36).slice(2, 8)).join('');

  /** @type {Map<string, Session>} */
  #sessions = new Map();
  #manager = /** @type {any} */ (null);
  #io;

  /** @param {() => any} io returns Socket.IO's `io` function; asked when it is needed */
  constructor(io) {
    this.#io = io;
  }

  /**
   * Connect, or connect anew: to another address, or with other credentials. Backends asked for earlier move along.
   * @param {string | Record<string, any>} [url] address of the server; the page's own by default
   * @param {Record<string, any> & ConnectOptions} [options] for Socket.IO's `io(url, options)`, and `ConnectOptions`
   * @returns {this}
   * @throws {Error} when Socket.IO's client is not there
   */
  connect(url, options) {
    if (typeof url === 'object') return this.connect(undefined, url);
    const { deadline, queueLimit, jitter, ...rest } = options ?? {};
    if (deadline !== undefined) this.deadline = deadline;
    if (queueLimit !== undefined) this.queueLimit = queueLimit;
    if (jitter !== undefined) this.jitter = jitter;
    const io = this.#io();
    if (!io) throw new Error('Socket.IO is missing: load /socket.io/socket.io.js before Backbone.io.connect() is called');
    // The root namespace is never joined; this only has Socket.IO read the address and make the manager.
    const lazy = { ...rest, forceNew: true, autoConnect: false };
    this.#manager = (url === undefined ? io(lazy) : io(url, lazy)).io;
    this.url = this.#manager.uri;
    this.options = rest;
    for (const session of this.#sessions.values()) this.#open(session);
    return this;
  }

  /**
   * A backend, in a channel.
   * @param {string} name the backend's name on the server
   * @param {{channel?: string | null, persist?: boolean}} [options] `channel`: the group of clients to belong to, the
   *   backend's default channel when there is none; `persist`: resume where the page's last visit in this tab ended
   * @returns {import('./handle.js').Handle} the same one for the same name and channel
   * @throws {TypeError} when the name or the channel is no string
   */
  backend(name, { channel = null, persist = false } = {}) {
    if (typeof name !== 'string' || !name) throw new TypeError(`a backend is named by a string, not ${JSON.stringify(name)}`);
    if (channel !== null && typeof channel !== 'string') {
      throw new TypeError(`channel of "${name}" must be a string, not ${JSON.stringify(channel)}`);
    }
    let session = this.#sessions.get(name);
    if (!session) {
      session = new Session(this, name);
      this.#sessions.set(name, session);
      if (this.#manager) this.#open(session);
    }
    return session.handle(channel || null, persist ? `bbio:${name}:${channel ?? ''}` : undefined);
  }

  /** Disconnect. Requests that have no answer yet fail with `Unavailable`. */
  close() {
    for (const session of this.#sessions.values()) {
      session.close();
      session.reject(unavailable('the connection was closed'));
    }
    this.#manager = null;
  }

  /** @param {Session} session */
  #open(session) {
    session.open(this.#manager.socket(`/${session.name}`, this.options));
  }
}
