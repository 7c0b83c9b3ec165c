/**
 * What a failed sync rejects with: the server's error object with all its details, or one made by the client
 * (`Timeout`, `Busy`, `UnknownOutcome`, `Unavailable`, `BadRequest`).
 *
 * `name` is the kind of error (`NotFound`), `message` what a user may read, `code` HTTP's status code of that kind, and
 * a `Conflict` has the model as the server holds it in `current`. All properties are enumerable, so that the object
 * can be logged, compared and shown like the JSON it came from.
 */
export class SyncError extends Error {
  /** The error itself: pages written for backbone.io read `res.error.message`. */
  get error() {
    return this;
  }

  /** @type {number | undefined} */
  code;

  /** @type {any} */
  current;

  /** @param {{name?: string, message?: string, code?: number, [detail: string]: any}} fields what the server sent */
  constructor(fields) {
    super();
    const { name = 'SyncError', message = '', code, current, ...details } = fields;
    for (const [key, value] of Object.entries({ name, message, ...details, code, current })) {
      if (value === undefined) Reflect.deleteProperty(this, key);
      else Object.defineProperty(this, key, { value, enumerable: true, writable: true, configurable: true });
    }
  }
}

export const UNCONNECTED = 'there is no connection; call Backbone.io.connect() once, before or after making collections';

/**
 * The deadline has passed; the text says why there is no answer, and what to do about it.
 * @param {{name: string, connection: {url: string}}} session
 * @param {{request: Record<string, any>, sent: boolean}} entry
 * @param {boolean} connecting whether `connect` has been called
 * @param {boolean} [connected] whether there is a connection
 * @returns {SyncError}
 */
export function unanswered({ name, connection }, { request, sent }, connecting, connected) {
  let why = UNCONNECTED;
  if (connecting) why = `the server at ${connection.url} could not be reached in time`;
  if (connected) why = 'the server was not ready in time to let this client listen';
  if (sent) why = 'the server did not answer in time';
  return new SyncError({ name: 'Timeout', message: `${request.method} of "${name}": ${why}`, code: 408 });
}

/** Answers to a connection that the next one gets too, with what to look at. */
const REFUSALS = new Map([
  [401, 'does a proxy in front ask for a password?'],
  [403, "is this page's origin allowed? App(cors=...) allows others than the server's own"],
  [404, 'is that where bbio is? see the option "path"'],
]);

/**
 * @param {any} err what Engine.IO says of a connection that did not come about
 * @param {string} url
 * @returns {SyncError | undefined} undefined when another attempt may end otherwise
 */
export function turnedAway(err, url) {
  const code = err?.type === 'TransportError' ? err.description : undefined;
  const hint = REFUSALS.get(code);
  if (!hint) return undefined;
  return new SyncError({ name: code === 404 ? 'Unavailable' : 'Forbidden', message: `the server refused the connection to ${url} (${code}): ${hint}`, code });
}

/** @param {string} message @returns {SyncError} */
export const unavailable = (message) => new SyncError({ name: 'Unavailable', message, code: 503 });

/** @param {any} err @returns {boolean} whether the same request may succeed a little later */
export const passing = (err) => err?.code >= 500 || err?.code === 408 || err?.code === 429;
