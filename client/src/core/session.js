import { SyncError, passing, turnedAway, unanswered, unavailable } from './errors.js';
import { clone } from './json.js';
import { Handle } from './handle.js';
import { Outbox } from './outbox.js';
import { Renewal } from './renewal.js';

/** After how many milliseconds without an answer a write is sent again, or a listen. */
const PATIENCE = 8000;

/** How many milliseconds a connection may take to show that it lives. */
const PROBE = 4000;

/** How many milliseconds a read whose long answer may be on its way waits before its connection has to show that it lives, at most. */
const LONG_READ = 40_000;

/** How many milliseconds a connection that another takes the place of has for its answers. */
const GRACE = 5000;

/** Milliseconds that a lost connection takes from the time of requests sent over it: it may have been lost because of them. */
const LOSS = 2000;

/** Errors after which a backend that has refused this client is joined again. */
const PASSING = ['Busy', 'Timeout', 'Unavailable'];

/** Known by this is who may not listen, and was somebody known before: of those the server says nothing. */
const UNTOLD = 'untold';

/**
 * The socket of one backend, shared by its channels: what connects handles, followers and the outbox to the server.
 *
 * @typedef {import('./outbox.js').Entry & {left: number, strict: boolean, origins: any[], user: string,
 *   knownAs?: string | null, size: number, sentAt?: number, timer?: any}} Timed `user`: who made it, as far as the page has said so; `knownAs`: as far as the
 *   server has; `sentAt`: when it was sent the last time
 */
export class Session {
  /** @type {Map<string | null, Handle>} */
  #handles = new Map();
  #socket = /** @type {any} */ (null);
  #generation = 0;
  #linked = false;
  #reached = false;
  #timers = new Set();
  /** Old connections that still have answers to give. @type {{draining: Timed[], end: () => void}[]} */
  #drains = [];
  /** What stands for the probe that is not answered yet. @type {object | null} */
  #probe = null;
  /** The call that ends its connection. */
  #end = /** @type {any} */ (null);
  /** When something came from the server, by a clock that nobody sets. */
  #heard = -Infinity;
  /** Whether the page was told that the server refuses its connections. */
  #isTurnedAway = false;

  /**
   * @param {import('./connection.js').Connection} connection
   * @param {string} name the backend's
   */
  constructor(connection, name) {
    this.connection = connection;
    this.name = name;
    this.outbox = new Outbox(connection.client);
    /** @type {Renewal} */
    this.renewal = new Renewal(connection.identity, {
      handles: () => [...this.#handles.values()],
      listen: (handle) => {
        const { follower } = handle;
        this.run(handle, follower.listening ? [{ do: 'listen', since: follower.since, again: false }] : follower.turn());
      },
      refuse: (handle, error) => this.#deny(handle, error),
      flush: () => this.#flush(),
    });
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
      this.#begin(handle);
    } else if (memory) {
      handle.persist(memory);
    }
    return handle;
  }

  /**
   * A handle is used: it follows its channel, also if that had been left.
   * @param {Handle} handle
   * @returns {Handle} the handle of the channel, this one or another that has taken its place
   */
  join(handle) {
    const current = this.#handles.get(handle.channel);
    if (current) return current;
    this.#handles.set(handle.channel, handle);
    this.#begin(handle);
    return handle;
  }

  /** @param {Handle} handle one that nobody used */
  #begin(handle) {
    if (!this.#online) return;
    // What is bound at the same time says what it asks to be told of.
    Promise.resolve().then(() => {
      const { ready, listening } = handle.follower;
      if (this.#online && !ready && !listening && this.#handles.get(handle.channel) === handle) this.run(handle, handle.follower.connected());
    });
  }

  /** Follow a channel no more, unless it is used again, or something is under way in it. @param {Handle} handle */
  leave(handle) {
    const busy = this.outbox.entries.some((entry) => entry.handle === handle);
    if (!handle.unused || busy || this.#handles.get(handle.channel) !== handle) return;
    this.#handles.delete(handle.channel);
    handle.left();
    if (this.#online) this.#socket.emit('unlisten', [handle.channel], () => {});
  }

  /**
   * @param {any} socket a Socket.IO client socket of the backend's namespace
   * @param {boolean} [again] whether it stands for the same connection, which was lost
   */
  open(socket, again = false) {
    for (const entry of /** @type {Timed[]} */ (this.outbox.entries)) entry.user ||= this.connection.user;
    if (again) this.close();
    else this.#replace();
    this.#isTurnedAway = false;
    this.#socket = socket;
    socket.on('connect', () => this.#connected());
    socket.on('disconnect', (/** @type {string} */ reason) => this.#disconnected(socket, reason));
    socket.on('connect_error', (/** @type {any} */ err) => this.#refused(socket, err));
    socket.on('auth', (/** @type {any} */ news) => {
      if (this.renewal.told(news)) for (const handle of this.#handles.values()) handle.presencePaused();
    });
    socket.on('synced', (/** @type {any[]} */ ...args) => this.#synced(args[0], args[1], args[2]));
    socket.on('resync', (/** @type {string} */ stream, /** @type {any} */ change) => {
      this.#hear();
      if (change?.joined) this.#invited(stream);
      else if (change?.left) this.#dismissed(stream);
      else for (const handle of this.#following(stream)) this.run(handle, handle.follower.gap());
    });
    socket.on('presence', (/** @type {string | null} */ channel, /** @type {any} */ news) => {
      this.#hear();
      this.#handles.get(channel)?.presenceTold(news);
    });
    socket.on('message', (/** @type {any[]} */ ...args) => this.#messaged(args));
    if (socket.connected) this.#connected();
    else socket.connect();
  }

  /**
   * @param {SyncError} error what to fail requests with that have no answer yet
   * @param {(entry: Timed) => boolean} [which] all by default
   */
  reject(error, which = () => true) {
    const entries = /** @type {Timed[]} */ (this.outbox.entries).filter(which);
    for (const entry of entries) this.#settle(entry, this.#isDoubtful(entry) ? this.#unknown(entry) : error);
  }

  /** @param {import('./outbox.js').Entry} entry @returns {boolean} whether it may have been applied */
  #isDoubtful(entry) {
    return entry.sent && entry.request.method !== 'read';
  }

  /** @param {import('./outbox.js').Entry} entry */
  #unknown({ request: { method } }) {
    const message = `the connection was lost before "${this.name}" answered; the ${method} may have been applied`;
    return new SyncError({ name: 'UnknownOutcome', message, code: 409 });
  }

  /**
   * Another connection takes over, perhaps another user's. What is under way stays with the old one, for a while; what that
   * cannot answer is not sent again. What has not been sent goes out as whoever made it, or not at all.
   */
  #replace() {
    const old = this.#socket;
    this.#socket = null;
    old?.off();
    const entries = /** @type {Timed[]} */ (this.outbox.entries);
    const { user } = this.connection;
    for (const entry of entries) {
      if (entry.request.method === 'read') entry.user = user;
      else if (entry.waiting && old?.connected) entry.draining = true;
    }
    for (const handle of this.#handles.values()) handle.knownAs = undefined;
    const draining = entries.filter((entry) => entry.draining);
    if (this.#linked) this.#cut();
    this.#part(entries.filter((entry) => entry.request.method !== 'read' && !entry.draining && (entry.sent || entry.user !== user)));
    if (draining.length === 0 || !old) {
      old?.disconnect();
      return;
    }
    const end = () => {
      for (const entry of draining) if (this.outbox.holds(entry)) this.#settle(entry, this.#unknown(entry));
      old.disconnect();
    };
    old.on('disconnect', end);
    const timer = setTimeout(end, GRACE);
    this.#drains.push({ draining, end: () => (clearTimeout(timer), old.off(), old.disconnect()) });
  }

  /** @param {Timed[]} entries writes that nobody here may send, or send again: they fail, or wait for who made them */
  #part(entries) {
    for (const entry of entries) if (entry.sent) this.#settle(entry, this.#unknown(entry));
    if (this.connection.queue !== 'keep') this.#drop(entries.filter((entry) => !entry.sent));
  }

  /**
   * The server has said whom it takes this client for: another one, if what `auth` gives has changed, or a cookie.
   * @param {Handle} handle
   * @param {string | null} user null for nobody
   */
  #recognized(handle, user) {
    handle.knownAs = user;
    const entries = this.#waiting(handle);
    for (const entry of entries) if (entry.knownAs === undefined) entry.knownAs = user;
    this.#part(entries.filter((entry) => this.#isOfAnother(entry)));
  }

  /**
   * The server does not let this client listen any more, and so does not say whom it takes it for.
   * @param {Handle} handle
   * @param {SyncError} error
   */
  #unrecognized(handle, error) {
    if (handle.knownAs === undefined) return;
    handle.knownAs = UNTOLD;
    const others = this.#waiting(handle).filter((entry) => this.#isOfAnother(entry));
    this.reject(error, (entry) => others.includes(entry));
  }

  /** @param {Handle} handle @returns {Timed[]} the present user's writes that are not on their way */
  #waiting(handle) {
    const { user } = this.connection;
    return /** @type {Timed[]} */ (this.outbox.entries).filter(
      (entry) => entry.handle === handle && entry.user === user && entry.request.method !== 'read' && !entry.waiting,
    );
  }

  /** @param {Timed} entry @returns {boolean} whether somebody else made it than who is connected, as far as page and server have said so */
  #isOfAnother({ handle, request, user, knownAs }) {
    if (user !== this.connection.user) return true;
    return request.method !== 'read' && knownAs !== undefined && handle.knownAs !== undefined && knownAs !== handle.knownAs;
  }

  /** @param {Timed[]} entries writes of somebody who is not here any more */
  #drop(entries) {
    for (const handle of new Set(entries.map((entry) => entry.handle))) {
      const its = entries.filter((entry) => entry.handle === handle);
      handle.tell('dropped', its.map(({ request: { method, model } }) => ({ method, model })));
    }
    const message = `it waited to be sent to "${this.name}" when another user connected`;
    for (const entry of entries) this.#settle(entry, new SyncError({ name: 'Dropped', message, code: 409 }));
  }

  /**
   * Ask about the presence of a channel; nobody is asked without a connection.
   * @param {Handle} handle
   * @param {Record<string, any> | null} options
   * @param {(...args: any[]) => void} answer
   */
  ask(handle, options, answer) {
    if (!this.#online) return;
    const { token } = this.renewal;
    const answered = this.#hearing((/** @type {any} */ err, /** @type {any} */ reply) => {
      // It is asked for again once this client listens with a new token.
      if (err?.error && this.renewal.awaits(new SyncError(err.error), token)) handle.presencePaused();
      else answer(err, reply);
    });
    this.#socket.emit('presence', handle.channel, options, this.#current(answered));
  }

  /**
   * Send a message, which is told now or never: it waits until this client has listened for the first time.
   * @param {Handle} asked
   * @param {string} name
   * @param {any} data
   * @param {(err?: SyncError) => void} done
   */
  send(asked, name, data, done) {
    const handle = this.join(asked);
    const { deadline } = this.connection;
    const finish = (/** @type {SyncError | undefined} */ err) => {
      clearTimeout(timer);
      handle.off('listening', begin).off('error', refused).off('offline', lost);
      done(err);
    };
    const refused = (/** @type {any} */ err) => passing(err) || finish(err);
    const lost = () => finish(unavailable(`the connection to "${this.name}" was lost before the message "${name}" was answered`));
    const late = () => finish(new SyncError({ name: 'Timeout', message: `the message "${name}" to "${this.name}": the server did not answer in time`, code: 408 }));
    const begin = () => {
      handle.off('listening', begin);
      handle.on('offline', lost);
      const answer = (/** @type {any} */ err) => finish(err ? new SyncError(err.error ?? { message: String(err) }) : undefined);
      this.#socket.emit('message', name, data, handle.channel, this.#current(this.#hearing(answer)));
    };
    const timer = setTimeout(late, deadline);
    if (this.#online && handle.follower.ready) begin();
    else if (handle.options) setTimeout(() => finish(unavailable(`there is no connection to "${this.name}", and a message does not wait for one`)));
    else handle.on('listening', begin).on('error', refused);
  }

  /** @param {any[]} args of a `message` event */
  #messaged([name, data, channel, from]) {
    this.#hear();
    const handle = this.#handles.get(channel);
    handle?.tell(`message:${name}`, data, from);
    handle?.tell('message', name, data, from);
  }

  /** @param {(...args: any[]) => void} answer @returns {(...args: any[]) => void} the same, which shows that the server is there */
  #hearing(answer) {
    return (...args) => {
      this.#hear();
      answer(...args);
    };
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
   * @param {{handle: Handle, request: Record<string, any>, timeout?: number, key?: string, origins: any[], size: number, maker?: import('./handle.js').Maker,
   *   done: import('./outbox.js').Entry['done']}} fields
   * @returns {{abort: (err: any) => void}}
   */
  request({ handle: asked, request, timeout: strict, key, origins, size, maker, done }) {
    const handle = this.join(asked);
    const { deadline, queueLimit, queue } = this.connection;
    const user = maker?.user || this.connection.user;
    const knownAs = maker?.knownAs === undefined && user === this.connection.user ? handle.knownAs : maker?.knownAs;
    const isMakers = (/** @type {Timed} */ entry) => entry.user === user && [undefined, knownAs].includes(entry.knownAs);
    if (/** @type {Timed[]} */ (this.outbox.entries).filter(isMakers).length >= queueLimit) {
      const message = `${queueLimit} requests to "${this.name}" wait for an answer already`;
      setTimeout(() => done(new SyncError({ name: 'Busy', message, code: 429, retry_after: 1 })));
      return { abort() {} };
    }
    const entry = /** @type {Timed} */ (this.outbox.add({ handle, request, key, done }));
    Object.assign(entry, { origins, left: strict ?? deadline, strict: strict !== undefined, user, knownAs, size });
    this.#arm(entry);
    if (this.#isOfAnother(entry) && queue !== 'keep') {
      setTimeout(() => this.#drop([entry]));
      return { abort() {} };
    }
    if (this.#socket && !this.#socket.active) this.#socket.connect();
    this.#flush();
    return { abort: (/** @type {any} */ err) => void this.#settle(entry, err) };
  }

  /**
   * Do what a follower asks for.
   * @param {Handle} handle
   * @param {import('./follower.js').Effect[]} effects
   */
  run(handle, effects) {
    /** @type {import('./handle.js').News[]} */
    let news = [];
    for (const effect of effects) {
      let { do: kind, method, model, meta } = effect;
      let answered = kind === 'apply' ? this.outbox.find(meta?.op) : undefined;
      if (method === 'patch' && answered?.handle === handle) {
        // It is an answer as well, where the record is known that it builds on; else that will come.
        this.#tell(handle, news.splice(0));
        const whole = handle.made({ method, raw: model, meta });
        if (whole) [method, model] = ['update', whole];
        else answered = undefined;
      }
      if (kind === 'apply' && answered?.handle !== handle) {
        news.push({ method, raw: model, meta, own: this.outbox.owns(meta?.op) });
        continue;
      }
      // The position is not kept before what it stands for has been applied.
      if (kind === 'moved' && effect !== effects.at(-1)) continue;
      this.#tell(handle, news.splice(0));
      // The event of a write whose answer has not come yet.
      if (answered) this.#succeed(/** @type {Timed} */ (answered), model, { ...meta, m: method });
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
    this.#tell(handle, news);
  }

  #connected() {
    this.#generation += 1;
    this.#hear();
    this.renewal.connected(this.#socket);
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
    this.#probe = this.#end = null;
    this.renewal.cut();
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
      this.#settle(entry, this.#unknown(entry));
    }
    for (const handle of this.#handles.values()) {
      handle.follower.disconnected();
      handle.interrupted();
      handle.tell('offline');
    }
  }

  /** @param {any} socket @param {any} err */
  #refused(socket, err) {
    if (socket.active) {
      // Who has been let in before goes on trying: what is in between may refuse for a while, and writes wait.
      const error = this.#reached ? undefined : turnedAway(err, this.connection.url);
      if (error) this.#fail(error, !this.#isTurnedAway);
      this.#isTurnedAway ||= error !== undefined;
      return;
    }
    const fields = err?.data && typeof err.data === 'object' ? err.data : {};
    const message = `the server refused the backend "${this.name}": ${fields.message ?? err?.message ?? 'no reason given'}`;
    if (PASSING.includes(fields.name)) {
      const pause = Math.max(1, Number(fields.retry_after) || 0) * 1000 + Math.random() * this.connection.jitter;
      setTimeout(() => this.#socket === socket && socket.connect(), pause);
      return;
    }
    this.#fail(fields.name ? new SyncError({ ...fields, message }) : unavailable(message), true);
  }

  /**
   * The server does not let this user in: what others wait for, or an old connection is to answer, is not concerned.
   * @param {SyncError} error
   * @param {boolean} isNews whether handles are to be told
   */
  #fail(error, isNews) {
    this.reject(error, (entry) => !this.#isOfAnother(entry) && !entry.draining);
    for (const handle of isNews ? this.#handles.values() : []) {
      handle.tell('error', error);
      handle.barred(error);
    }
  }

  /** @param {Handle} handle @param {import('./follower.js').Effect} effect */
  #listen(handle, { since, again }) {
    const send = () => {
      if (this.#handles.get(handle.channel) !== handle) return;
      if (this.renewal.isHeld) {
        this.renewal.deny(handle);
        return;
      }
      let answered = false;
      const query = handle.ask();
      const { token } = this.renewal;
      const answer = this.#current((/** @type {any} */ reply) => {
        if (answered) return;
        this.#hear();
        answered = true;
        this.#listened(handle, reply, query, token);
      });
      const more = { ...(query && { query }), ...(handle.takesDeltas && { deltas: true }) };
      this.#socket.emit('listen', handle.channel, { v: 1, since, client: this.outbox.client, user: true, messages: true, ...more }, answer);
      this.#later(PATIENCE, () => {
        if (answered) return;
        answered = true;
        this.probe(/** @type {Timed[]} */ (this.outbox.entries).some((entry) => this.#mayBeLong(entry)));
        this.#listen(handle, { do: 'listen', since, again });
      });
    };
    if (again) this.#later(Math.random() * this.connection.jitter, send);
    else send();
  }

  /** The server has let this client into a channel. @param {string} stream */
  #invited(stream) {
    const handle = this.#handles.get(stream.slice(2) || null);
    if (handle) this.run(handle, handle.follower.invited());
    else for (const other of this.#handles.values()) other.tell('joined', stream.slice(2) || null);
  }

  /** The server has ended that this client listens to a channel: it is told no more, and asks for nothing. @param {string} stream */
  #dismissed(stream) {
    const handle = this.#handles.get(stream.slice(2) || null);
    if (!handle) return;
    handle.follower.dismissed();
    handle.tell('error', new SyncError({ name: 'Forbidden', message: 'the server has ended listening to this channel', code: 403 }));
    handle.unheard();
    this.#flush();
  }

  /**
   * @param {Handle} handle
   * @param {any} reply
   * @param {import('./handle.js').Conditions | undefined} query what it asked to be told of
   * @param {string | undefined} token by which it asked
   */
  #listened(handle, reply, query, token) {
    if (this.#handles.get(handle.channel) !== handle) return;
    if (reply?.error) {
      const error = new SyncError(reply.error);
      if (query && error.name === 'BadRequest') {
        // Whoever asked for something that cannot be asked for hears of it when it is read.
        handle.unasked(query);
        this.run(handle, [{ do: 'listen', since: handle.follower.since, again: false }]);
        return;
      }
      if (this.renewal.awaits(error, token)) {
        this.renewal.deny(handle);
        return;
      }
      if (passing(error)) {
        handle.tell('error', error);
        // What waits is not sent before the server has said who this is; it would be refused for good.
        const pause = Math.max(1, Number(reply.error.retry_after) || 0) * 1000;
        this.#later(pause, () => this.run(handle, [{ do: 'listen', since: handle.follower.since, again: true }]));
        return;
      }
      this.renewal.refused(handle);
      this.#deny(handle, error);
      this.#flush();
      return;
    }
    const { v, streams, client, user, present, ...options } = reply ?? {};
    if (typeof client === 'string') this.outbox.public = client;
    if (user !== undefined) this.#recognized(handle, user);
    handle.options = options;
    if (typeof options.event === 'string') handle.prefix = options.event;
    const isLive = streams?.[`c:${handle.channel ?? ''}`]?.d !== undefined;
    handle.told = isLive ? query : undefined;
    const effects = handle.follower.listened(reply ?? {});
    this.run(handle, effects);
    handle.listened(effects.some((effect) => effect.do === 'read'));
    handle.attending(present === true);
    for (const [stream, state] of Object.entries(reply?.streams ?? {})) {
      for (const other of this.#following(stream)) {
        if (other !== handle) this.run(other, other.follower.overheard(stream, state));
      }
    }
  }

  /** @param {Handle} handle @param {SyncError} error */
  #deny(handle, error) {
    handle.tell('error', error);
    // A client that may not listen may still be allowed to sync.
    handle.follower.refused();
    handle.unheard();
    handle.barred(error);
    this.#unrecognized(handle, error);
  }

  /** @param {string} method @param {any} model @param {any} meta */
  #synced(method, model, meta) {
    this.#hear();
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

  /** @param {Handle} handle @param {import('./handle.js').News[]} news */
  #tell(handle, news) {
    if (news.length > 0) handle.notified(news);
  }

  #flush() {
    if (!this.#online || this.renewal.isHeld) return;
    for (const entry of this.outbox.due((one) => one.handle.follower.ready && !this.#isOfAnother(/** @type {Timed} */ (one)))) {
      const timed = /** @type {Timed} */ (entry);
      const excess = this.#excess(timed);
      if (excess) {
        this.#settle(timed, excess);
        continue;
      }
      const generation = this.#generation;
      const { token } = this.renewal;
      const answer = (/** @type {any} */ err, /** @type {any} */ result, /** @type {any} */ meta) => {
        if (generation === this.#generation) this.#hear();
        else if (!entry.draining) return;
        if (err) this.#refuse(timed, new SyncError(typeof err === 'string' ? { message: err } : err.error ?? err), token);
        else {
          const { follower } = entry.handle;
          this.#succeed(timed, result, meta, meta?.s && (follower.passed(meta, entry.retried) || follower.leavesContent(meta)));
          if (meta?.s) this.run(entry.handle, follower.acked(meta));
        }
      };
      timed.sentAt = performance.now();
      this.#socket.emit('sync', entry.request, answer);
    }
  }

  /** @param {Timed} entry @param {SyncError} error @param {string | undefined} token by which it was asked for */
  #refuse(entry, error, token) {
    if (entry.draining || !this.outbox.holds(entry) || !this.renewal.awaits(error, token)) {
      this.#settle(entry, error);
      return;
    }
    // It was not done; an attempt before this one may have been.
    entry.waiting = false;
    entry.sent = entry.retried;
    this.#flush();
  }

  /** @param {Timed} entry @returns {SyncError | undefined} what is wrong with it if it is larger than the server takes */
  #excess({ request, size }) {
    const { engine } = this.#socket.io ?? {};
    const limit = engine?.maxPayload ?? engine?._maxPayload;
    // A character is three bytes at most.
    if (typeof limit !== 'number' || 3 * size < limit) return undefined;
    const bytes = new TextEncoder().encode(JSON.stringify(request)).length + this.name.length + 32;
    if (bytes <= limit) return undefined;
    const message = `the ${request.method} is too large: ${bytes} bytes, and the server takes ${limit}`;
    return new SyncError({ name: 'BadRequest', message, code: 413, size: bytes, limit });
  }

  /**
   * Find out whether the server is there; if it does not show in time, the connection is opened again.
   * @param {boolean} [patient] whether a long answer may be on its way, behind which the server cannot show: it has no time limit
   *   then, until somebody asks who is not so patient
   */
  probe(patient = false) {
    if (!this.#online || ![...this.#handles.values()].some(({ follower }) => follower.positioned)) return;
    if (!this.#probe) {
      const probe = {};
      this.#probe = probe;
      this.#socket.emit('unlisten', [], () => {
        if (this.#probe !== probe) return;
        this.#hear();
        clearTimeout(this.#end);
        this.#timers.delete(this.#end);
        this.#probe = this.#end = null;
      });
    }
    if (!patient) this.#end ??= this.#later(PROBE, () => this.connection.reopen());
  }

  #hear() {
    this.#heard = performance.now();
  }

  /**
   * Whether the answer to a request may be on its way, and merely be long for the connection. That lives; or it lived when it was
   * asked for, and there is time to ask for it again. Nobody is as patient about a write.
   * @param {Timed} entry
   */
  #mayBeLong({ waiting, draining, request, sentAt = 0, left }) {
    const now = performance.now();
    const lives = this.#heard > now - PATIENCE;
    const lived = this.#heard >= sentAt - PATIENCE;
    const early = now - sentAt < LONG_READ && left > 2 * PATIENCE;
    return waiting && !draining && request.method === 'read' && (lives || (lived && early));
  }

  /** @param {Timed} entry @param {any} result @param {any} meta @param {boolean} [passed] */
  #succeed(entry, result, meta, passed) {
    // What the application does with its answer is its own affair.
    const inTime = this.#settle(entry, null, entry.request.method === 'read' ? result : clone(result), meta, passed);
    // An answer after the deadline tells of a write that its maker has given up on: news to all.
    if (!passed) entry.handle.wrote(entry.request, result, meta, inTime ? entry.origins : []);
  }

  /** @param {Timed} entry @param {any} err @param {any} [result] @param {any} [meta] @param {boolean} [passed] */
  #settle(entry, err, result, meta, passed) {
    clearTimeout(entry.timer);
    const first = this.outbox.settle(entry, err, result, meta, passed);
    this.#drains = this.#drains.filter(({ draining, end }) => {
      const open = draining.some((one) => this.outbox.holds(one));
      if (!open) end();
      return open;
    });
    if (first) this.#flush();
    if (entry.handle.unused) this.leave(entry.handle);
    return first;
  }

  /** @param {Timed} entry */
  #arm(entry) {
    const step = Math.min(entry.left, PATIENCE);
    entry.timer = setTimeout(() => {
      const writes = entry.request.method !== 'read';
      const write = writes && entry.handle.follower.positioned;
      const others = this.#isOfAnother(entry);
      const counts = entry.strict || (this.#online && !others && !(writes && this.renewal.isHeld)) || !(writes && this.#reached && (this.#socket || others));
      if (counts) entry.left -= step;
      if (entry.left <= 0) {
        this.#settle(entry, unanswered(this, entry, this.#socket !== null, this.#online));
        return;
      }
      if (entry.waiting ? !entry.draining : write && !others) this.probe(this.#mayBeLong(entry));
      if (write && entry.waiting && !entry.draining) {
        entry.waiting = false;
        if (others) {
          this.#part([entry]);
          return;
        }
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

  /** @param {number} pause milliseconds @param {() => void} callback not called when the connection goes first @returns {any} */
  #later(pause, callback) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      callback();
    }, pause);
    this.#timers.add(timer);
    return timer;
  }
}
