import { UNCONNECTED, unavailable } from './errors.js';
import { Identity } from './identity.js';
import { Namespace } from './namespace.js';
import { Session } from './session.js';

/**
 * @typedef {object} ConnectOptions
 * @property {number} [deadline] milliseconds a sync may take, 30,000 by default. Once connected, the clock stands still
 *   for writes while there is no connection: they wait for it. Each that breaks with a sync on its way costs it 2,000.
 * @property {number} [queueLimit] how many requests to one backend may wait for an answer, 1,000 by default
 * @property {string} [user] who makes the requests from now on; where no name is given, other `auth`, headers or query are
 *   another user. Whom a function for `auth` speaks for is seen when the server has told it
 * @property {() => string | Promise<string>} [getToken] returns a new token: called when there is none, some time before it ends, and
 *   when it has ended; it is sent as `auth: {token}`
 * @property {'drop' | 'keep'} [queue] what becomes of writes that wait to be sent when another user connects: they fail with
 *   `Dropped`, or wait until their user connects again
 * @property {number} [jitter] milliseconds over which clients that lost the same connection spread, 1,000 by default
 */

/** After these events of the page its connection is dead or may be, and one can be had at once. */
const WAKING = ['online', 'pageshow'];

/** How many milliseconds the opening of a connection may take. */
const OPENING = 10_000;

/** After how many milliseconds a page that did not connect is told. */
const REMINDER = 1000;

/**
 * One connection to a server, carrying any number of backends and channels.
 *
 * As Socket.IO's own sockets it has `on`, `once`, `off` and `emit`, for events of your own in the root namespace, which is
 * joined when one of them is used; see {@link Namespace} for its events.
 *
 * @example
 * const connection = connect('http://localhost:3000', { auth: { token } });
 * const todos = connection.backend('todos');
 */
export class Connection {
  deadline = 30_000;
  queueLimit = 1000;
  jitter = 1000;
  /** Who makes the requests, as far as the page has said so. */
  user = '';
  /** What becomes of those that waited when another user connects. @type {'drop' | 'keep'} */
  queue = 'drop';
  /** Address of the server, once known. */
  url = '';
  /** This client's id, part of every operation id: who knows it can have the answers to its writes. */
  client = unguessable();

  /** Its token. @type {Identity} */
  identity = new Identity({
    renewals: () => [...this.#sessions.values()].map(({ renewal }) => renewal),
    isOpen: () => this.connected,
    moment: () => {
      const { engine } = this.#manager;
      return () => this.connected && this.#manager.engine === engine;
    },
  });

  /** @type {Map<string, Session>} */
  #sessions = new Map();
  /** @type {Map<string, Namespace>} */
  #namespaces = new Map();
  /** Namespaces that the page uses for events of its own. @type {Set<string>} */
  #joined = new Set();
  #reminder = /** @type {any} */ (undefined);
  #manager = /** @type {any} */ (null);
  #closed = false;
  /** What `connect` was called with. @type {{url?: string, rest: Record<string, any>}} */
  #asked = { rest: {} };
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
    const { deadline, queueLimit, jitter, user, queue = 'drop', getToken, ...rest } = options ?? {};
    this.identity.begin(rest.auth, getToken);
    if (deadline !== undefined) this.deadline = deadline;
    if (queueLimit !== undefined) this.queueLimit = queueLimit;
    if (jitter !== undefined) this.jitter = jitter;
    const { auth, extraHeaders, query } = rest;
    this.user = JSON.stringify(user ?? [typeof auth === 'function' ? undefined : auth, extraHeaders, query]);
    this.queue = queue;
    this.#asked = { url, rest };
    this.#begin(!this.#manager && !this.#closed);
    this.#closed = false;
    for (const type of WAKING) /** @type {any} */ (globalThis).addEventListener?.(type, this.#wake);
    return this;
  }

  /** The connection is dead, or was away: open it again, and go on. */
  reopen() {
    if (this.#manager) this.#begin(true);
  }

  /** @param {any} event the network is there again, or a page that the browser had kept */
  #wake = ({ type, persisted }) => {
    // A network that went takes connections along without a sign; to ask them first would cost seconds.
    if (type !== 'pageshow' || persisted) this.reopen();
  };

  /** @param {boolean} again whether nobody else can have come */
  #begin(again) {
    const { url, rest } = this.#asked;
    const io = this.#io();
    if (!io) {
      const how = 'load /socket.io/socket.io.js before Backbone.io.connect() is called; with a module loader, set window.io';
      throw new Error(`Socket.IO is missing: ${how}`);
    }
    // The root namespace is never joined; this only has Socket.IO read the address and make the manager.
    const lazy = { timeout: OPENING, ...rest, forceNew: true, autoConnect: false };
    this.#manager = (url === undefined ? io(lazy) : io(url, lazy)).io;
    this.url = this.#manager.uri;
    this.options = this.identity.isNeeded ? { ...rest, auth: this.identity.auth } : rest;
    clearTimeout(this.#reminder);
    const old = [...this.#joined].map((name) => this.#namespaces.get(name)?.use(null));
    for (const session of this.#sessions.values()) this.#open(session, again);
    for (const name of this.#joined) this.#enter(name);
    for (const socket of old) socket?.disconnect();
  }

  /**
   * A backend, in a channel.
   * @param {string} name the backend's name on the server
   * @param {{channel?: string, persist?: boolean}} [options] `channel`: the group of clients to belong to, the
   *   backend's default channel when it is empty or left out; `persist`: resume where the page's last visit in this tab ended
   * @returns {import('./handle.js').Handle} the same one for the same name and channel
   * @throws {TypeError} when the name or the channel is no string; a channel that is named but undefined would be another's
   */
  backend(name, options = {}) {
    if (typeof name !== 'string' || !name) throw new TypeError(`a backend is named by a string, not ${JSON.stringify(name)}`);
    const channel = 'channel' in options ? options.channel : '';
    if (typeof channel !== 'string') {
      const mended = channel === undefined || channel === null ? '; leave it out for the default channel' : '';
      throw new TypeError(`channel of "${name}" must be a string, not ${JSON.stringify(channel)}${mended}`);
    }
    let session = this.#sessions.get(name);
    if (!session) {
      session = new Session(this, name);
      this.#sessions.set(name, session);
      if (this.#manager) this.#open(session);
      else this.#remind();
    }
    return session.handle(channel || null, options.persist ? `bbio:${name}:${channel}` : undefined);
  }

  /**
   * Say anew who makes the requests, with another token of the same user: it takes the place of the one before on this connection,
   * which stays, and on those that come. For another user, or none, `connect` again.
   * @param {string} token
   * @returns {Promise<void>} resolves when all backends have taken it, at once without a connection; rejects with a {@link SyncError}:
   *   `Forbidden` if it is another user's, `Unauthorized` if it does not hold
   * @example
   * await connection.authenticate(await login());
   */
  async authenticate(token) {
    if (!this.#manager) throw new Error('authenticate: there is no connection; call connect() first');
    const offered = this.identity.authenticate(token);
    this.options = { ...this.options, auth: this.identity.auth };
    for (const name of new Set([...this.#sessions.keys(), ...this.#joined])) this.#socket(name).auth = this.options.auth;
    await offered;
  }

  /** This client's id in the root namespace if that was joined, else the connection's. @returns {string | undefined} */
  get id() {
    return this.connected ? this.of().id ?? this.#manager.engine.id : undefined;
  }

  /** Whether there is a connection to the server. @returns {boolean} */
  get connected() {
    return this.#manager?.engine?.readyState === 'open';
  }

  /**
   * A namespace, for events of your own; a backend's has its name.
   * @param {string} [name] the root namespace by default
   * @returns {Namespace}
   */
  of(name = '') {
    const path = name.replace(/^\/+/, '');
    let namespace = this.#namespaces.get(path);
    if (!namespace) {
      namespace = new Namespace(() => this.#join(path));
      this.#namespaces.set(path, namespace);
      if (this.#manager && this.#sessions.has(path)) namespace.use(this.#socket(path));
    }
    return namespace;
  }

  /** @param {string} event @param {(...args: any[]) => void} listener @returns {this} */
  on(event, listener) {
    this.of().on(event, listener);
    return this;
  }

  /** @param {string} event @param {(...args: any[]) => void} listener @returns {this} */
  once(event, listener) {
    this.of().once(event, listener);
    return this;
  }

  /** @param {string} event @param {(...args: any[]) => void} [listener] @returns {this} */
  off(event, listener) {
    this.of().off(event, listener);
    return this;
  }

  /**
   * Emit an event of your own to the server.
   * @param {string} event
   * @param {...any} args what the server gets; a function last is called with its answer
   * @returns {this}
   */
  emit(event, ...args) {
    this.of().emit(event, ...args);
    return this;
  }

  /** The same as `close`, as Socket.IO names it. @returns {this} */
  disconnect() {
    this.close();
    return this;
  }

  /** Disconnect. Requests that have no answer yet fail with `Unavailable`, writes that were sent with `UnknownOutcome`. */
  close() {
    clearTimeout(this.#reminder);
    this.identity.stop();
    for (const session of this.#sessions.values()) {
      session.close();
      session.reject(unavailable('the connection was closed'));
    }
    for (const name of this.#joined) if (this.#manager) this.#socket(name).disconnect();
    this.#manager = null;
    this.#closed = true;
    for (const type of WAKING) /** @type {any} */ (globalThis).removeEventListener?.(type, this.#wake);
  }

  /** @param {Session} session @param {boolean} [again] whether it is the same connection, opened once more */
  #open(session, again = false) {
    const socket = this.#socket(session.name);
    this.#namespaces.get(session.name)?.use(socket);
    session.open(socket, again);
  }

  /** @param {string} name a namespace the page uses by itself */
  #join(name) {
    if (this.#joined.has(name)) return;
    this.#joined.add(name);
    if (this.#manager) this.#enter(name);
    else this.#remind();
  }

  /** @param {string} name */
  #enter(name) {
    // A backend's own socket is its session's to connect.
    if (this.#sessions.has(name)) return;
    const socket = this.#socket(name);
    this.of(name).use(socket);
    socket.connect();
  }

  /** @param {string} name @returns {any} the Socket.IO socket of a namespace, the same for all who ask */
  #socket(name) {
    return this.#manager.socket(`/${name}`, this.options);
  }

  #remind() {
    if (this.#reminder || this.url) return;
    this.#reminder = setTimeout(() => console.warn(`bbio: ${UNCONNECTED}`), REMINDER);
    this.#reminder.unref?.();
  }
}

/** @returns {string} a text that nobody guesses */
function unguessable() {
  return Array.from(crypto.getRandomValues(new Uint8Array(18)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
