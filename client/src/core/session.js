import { SyncError, unanswered, unavailable } from './errors.js';
import { Handle } from './handle.js';
import { Outbox } from './outbox.js';

/** After how many milliseconds without an answer a write is sent again, or a listen. */
const PATIENCE = 8000;

/** Milliseconds that a lost connection takes from the time of requests sent over it: it may have been lost because of them. */
const LOSS = 2000;

/**
 * The socket of one backend, shared by its channels: what connects handles, followers and the outbox to the wire.
 *
 * @typedef {import('./outbox.js').Entry & {left: number, strict: boolean, origins: any[], timer?: any}} Timed
 */
export class Session {
  /** @type {Map<string | null, Handle>} */
  #handles = new Map();
  #socket = /** @type {any} */ (null);
  #generation = 0;
  #linked = false;
  #reached = false;
  #timers = new Set();

  /**
   * @param {import('./connection.js').Connection} connection
   * @param {string} name the backend's
   */
  constructor(connection, name) {
    this.connection = connection;
    this.name = name;
    this.outbox = new Outbox(connection.client);
  }

  get #online() {
    return this.#socket?.connected ?? false;
  }

  /**
   * The handle of a channel; one for all who ask.
   * @param {string | null} channel
   * @param {string} [memory] key under which positions outlive the page
   * @returns {Handle}
   */
  handle(channel, memory) {
    let handle = this.#handles.get(channel);
    if (!handle) {
      handle = new Handle(this, channel);
      this.#handles.set(channel, handle);
      if (memory) handle.persist(memory);
      if (this.#online) this.run(handle, handle.follower.connected());
    } else if (memory) {
      handle.persist(memory);
    }
    return handle;
  }

  /** @param {any} socket a Socket.IO client socket of the backend's namespace, not connected yet */
  open(socket) {
    this.close();
    this.#socket = socket;
    socket.on('connect', () => this.#connected());
    socket.on('disconnect', (/** @type {string} */ reason) => this.#disconnected(socket, reason));
    socket.on('connect_error', (/** @type {any} */ err) => this.#refused(socket, err));
    socket.on('synced', (/** @type {any[]} */ ...args) => this.#synced(args[0], args[1], args[2]));
    socket.on('resync', (/** @type {string} */ stream) => {
      for (const handle of this.#following(stream)) this.run(handle, handle.follower.gap());
    });
    if (socket.connected) this.#connected();
    else socket.connect();
  }

  /** @param {SyncError} error what to fail all requests with that have no answer yet */
  reject(error) {
    for (const entry of this.outbox.entries) this.#settle(/** @type {Timed} */ (entry), error);
  }

  /** Leave the server; requests and positions stay for the next `open`. */
  close() {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.off();
    socket.disconnect();
    if (this.#linked) this.#cut();
  }

  /**
   * @param {{handle: Handle, request: Record<string, any>, timeout?: number, key?: string, origins: any[],
   *   done: import('./outbox.js').Entry['done']}} fields
   */
  request({ handle, request, timeout: strict, key, origins, done }) {
    const { deadline, queueLimit } = this.connection;
    if (this.outbox.entries.length >= queueLimit) {
      const message = `${queueLimit} requests to "${this.name}" wait for an answer already`;
      setTimeout(() => done(new SyncError({ name: 'Busy', message, code: 429, retry_after: 1 })));
      return;
    }
    const entry = /** @type {Timed} */ (this.outbox.add({ handle, request, key, done }));
    Object.assign(entry, { origins, left: strict ?? deadline, strict: strict !== undefined });
    this.#arm(entry);
    if (this.#socket && !this.#socket.active) this.#socket.connect();
    this.#flush();
  }

  /**
   * Do what a follower asks for.
   * @param {Handle} handle
   * @param {import('./follower.js').Effect[]} effects
   */
  run(handle, effects) {
    for (const effect of effects) {
      if (effect.do === 'apply') this.#apply(handle, effect);
      else if (effect.do === 'listen') this.#listen(handle, effect);
      else if (effect.do === 'read') handle.reread(effect.renewed);
      else if (effect.do === 'moved') handle.moved();
      else if (effect.do === 'watch') this.#later(2000, () => this.run(handle, handle.follower.overdue()));
      else if (effect.do === 'ready') {
        this.#flush();
        handle.tell('listening');
        if (effect.resumed) handle.tell('resumed');
      }
    }
  }

  #connected() {
    this.#generation += 1;
    const again = this.#reached;
    this.#linked = this.#reached = true;
    for (const handle of this.#handles.values()) {
      if (again) handle.tell('online');
      this.run(handle, handle.follower.connected());
    }
  }

  /** @param {any} socket @param {string} reason */
  #disconnected(socket, reason) {
    this.#cut();
    // Socket.IO comes back by itself, except when it was the server that closed this namespace.
    if (reason === 'io server disconnect') {
      const pause = 250 + Math.random() * this.connection.jitter;
      setTimeout(() => this.#socket === socket && socket.connect(), pause);
    }
  }

  #cut() {
    this.#linked = false;
    this.#generation += 1;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const entry of /** @type {Timed[]} */ (this.outbox.disconnected())) {
      entry.left -= LOSS;
      if (entry.left <= 0) {
        this.#settle(entry, unanswered(this, entry, true));
        continue;
      }
      if (entry.request.method === 'read' || entry.handle.follower.positioned) continue;
      const message = `the connection was lost before "${this.name}" answered; the ${entry.request.method} may have been applied`;
      this.#settle(entry, new SyncError({ name: 'UnknownOutcome', message, code: 409 }));
    }
    for (const handle of this.#handles.values()) {
      handle.follower.disconnected();
      handle.interrupted();
      handle.tell('offline');
    }
  }

  /** @param {any} socket @param {any} err */
  #refused(socket, err) {
    if (socket.active) return;
    const told = err?.data && typeof err.data === 'object' ? err.data : {};
    const message = `the server refused the backend "${this.name}": ${told.message ?? err?.message ?? 'no reason given'}`;
    const error = told.name ? new SyncError({ ...told, message }) : unavailable(message);
    this.reject(error);
    for (const handle of this.#handles.values()) handle.tell('error', error);
  }

  /** @param {Handle} handle @param {import('./follower.js').Effect} effect */
  #listen(handle, { since, again }) {
    const send = () => {
      let answered = false;
      const answer = this.#current((/** @type {any} */ reply) => {
        if (answered) return;
        answered = true;
        this.#listened(handle, reply);
      });
      this.#socket.emit('listen', handle.channel, { v: 1, since, client: this.outbox.client }, answer);
      this.#later(PATIENCE, () => !answered && ((answered = true), this.#listen(handle, { do: 'listen', since, again })));
    };
    if (again) this.#later(Math.random() * this.connection.jitter, send);
    else send();
  }

  /** @param {Handle} handle @param {any} reply */
  #listened(handle, reply) {
    if (reply?.error) {
      const error = new SyncError(reply.error);
      handle.tell('error', error);
      if (error.code === 429 || (error.code ?? 0) >= 500) {
        const pause = Math.max(1, Number(reply.error.retry_after) || 0) * 1000;
        this.#later(pause, () => this.run(handle, [{ do: 'listen', since: handle.follower.since, again: true }]));
      }
      // A client that may not listen may still be allowed to sync.
      handle.follower.refused();
      this.#flush();
      return;
    }
    const { v, streams, client, ...options } = reply ?? {};
    if (typeof client === 'string') this.outbox.public = client;
    handle.options = options;
    if (typeof options.event === 'string') handle.prefix = options.event;
    this.run(handle, handle.follower.listened(reply ?? {}));
    for (const [stream, told] of Object.entries(reply?.streams ?? {})) {
      for (const other of this.#following(stream)) {
        if (other !== handle) this.run(other, other.follower.overheard(stream, told));
      }
    }
  }

  /** @param {string} method @param {any} model @param {any} meta */
  #synced(method, model, meta) {
    for (const handle of this.#following(meta?.s)) this.run(handle, handle.follower.event(method, model, meta));
  }

  /**
   * @param {string | undefined} stream
   * @returns {Handle[]} the handles that follow it; all, of a server that names none
   */
  #following(stream) {
    return [...this.#handles.values()].filter(
      (handle) => typeof stream !== 'string' || stream === '*' || stream === `c:${handle.channel ?? ''}`,
    );
  }

  /** @param {Handle} handle @param {import('./follower.js').Effect} effect */
  #apply(handle, { method, model, meta }) {
    const own = this.outbox.find(meta?.op);
    if (own?.handle === handle) this.#succeed(/** @type {Timed} */ (own), model, meta);
    else handle.notified(method, model, meta, this.outbox.owns(meta?.op));
  }

  #flush() {
    if (!this.#online) return;
    for (const entry of this.outbox.due(({ handle }) => handle.follower.ready)) {
      const answer = this.#current((/** @type {any} */ err, /** @type {any} */ result, /** @type {any} */ meta) => {
        const timed = /** @type {Timed} */ (entry);
        if (err) this.#settle(timed, new SyncError(typeof err === 'string' ? { message: err } : err.error ?? err));
        else {
          const { follower } = entry.handle;
          this.#succeed(timed, result, meta, meta?.s && follower.passed(meta, entry.retried));
          if (meta?.s) this.run(entry.handle, follower.acked(meta));
        }
      });
      this.#socket.emit('sync', entry.request, answer);
    }
  }

  /** @param {Timed} entry @param {any} result @param {any} meta @param {boolean} [passed] */
  #succeed(entry, result, meta, passed) {
    const inTime = this.#settle(entry, null, result, meta, passed);
    // An answer after the deadline tells of a write that its maker has given up on: news to all.
    if (!passed) entry.handle.wrote(entry.request, result, meta, inTime ? entry.origins : []);
  }

  /** @param {Timed} entry @param {any} err @param {any} [result] @param {any} [meta] @param {boolean} [passed] */
  #settle(entry, err, result, meta, passed) {
    clearTimeout(entry.timer);
    const first = this.outbox.settle(entry, err, result, meta, passed);
    if (first) this.#flush();
    return first;
  }

  /** @param {Timed} entry */
  #arm(entry) {
    const step = Math.min(entry.left, PATIENCE);
    entry.timer = setTimeout(() => {
      const write = entry.request.method !== 'read' && entry.handle.follower.positioned;
      const counts = entry.strict || this.#online || !(write && this.#reached && this.#socket);
      if (counts) entry.left -= step;
      if (entry.left <= 0) {
        this.#settle(entry, unanswered(this, entry, this.#socket !== null));
        return;
      }
      if (write && entry.waiting) {
        entry.waiting = false;
        this.#flush();
      }
      this.#arm(entry);
    }, step);
  }

  /**
   * @template {any[]} A
   * @param {(...args: A) => void} callback
   * @returns {(...args: A) => void} the callback, dead as soon as the connection is
   */
  #current(callback) {
    const generation = this.#generation;
    return (...args) => {
      if (generation === this.#generation) callback(...args);
    };
  }

  /** @param {number} pause milliseconds @param {() => void} callback not called when the connection goes first */
  #later(pause, callback) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      callback();
    }, pause);
    this.#timers.add(timer);
  }
}
