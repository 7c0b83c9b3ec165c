/** The package's entry for bundlers and Node. */
import { io } from 'socket.io-client';
import { attach as attachTo } from './backbone/attach.js';
import { Connection } from './core/connection.js';

export { Connection };
export { Collection } from './core/collection.js';
export { SyncError } from './core/errors.js';
export { Handle } from './core/handle.js';
export { Presence } from './core/presence.js';

/**
 * @typedef {import('./backbone/attach.js').BackboneIO} BackboneIO
 * @typedef {import('./backbone/attach.js').BackendSpec} BackendSpec
 * @typedef {import('./backbone/attach.js').Query} Query
 * @typedef {import('./backbone/backend.js').Backend} Backend
 * @typedef {import('./core/namespace.js').Namespace} Namespace
 * @typedef {import('./core/presence.js').Member} Member
 */

/**
 * Connect to a server, without Backbone.
 * @param {string | Record<string, any>} [url] address of the server; in a page, the page's own by default
 * @param {Record<string, any> & import('./core/connection.js').ConnectOptions} [options] for Socket.IO's `io`, and `ConnectOptions`
 * @returns {Connection}
 *
 * @example
 * const todos = connect('http://localhost:3000').backend('todos');
 * const milk = await todos.sync('create', { title: 'milk' });
 */
export const connect = (url, options) => new Connection(() => io).connect(url, options);

/**
 * Teach Backbone to sync models and collections that name a `backend`.
 * @param {any} Backbone Backbone 1.0 to 1.6
 * @returns {import('./backbone/attach.js').BackboneIO} also found as `Backbone.io`
 *
 * @example
 * import Backbone from 'backbone';
 * import { attach } from 'bbio-client';
 * attach(Backbone).connect('http://localhost:3000');
 * const Todos = Backbone.Collection.extend({ backend: 'todos' });
 */
export const attach = (Backbone) => attachTo(Backbone, () => io);
