/** The browser's script: `Backbone.io` where the page has Backbone, and `bbio` for pages that do without. */
import { attach as attachTo } from './backbone/attach.js';
import { Connection } from './core/connection.js';
import { SyncError } from './core/errors.js';

const page = /** @type {any} */ (globalThis);
const io = () => page.io ?? required();

/** Socket.IO as a module that RequireJS has loaded, whatever the page calls it: then there is no global `io`. */
function required() {
  const contexts = Object.values(page.requirejs?.s?.contexts ?? {});
  const modules = contexts.flatMap((/** @type {any} */ context) => Object.values(context.defined));
  return modules.find((/** @type {any} */ one) => typeof one === 'function' && one.Manager && one.Socket);
}

page.bbio = {
  Connection,
  SyncError,
  attach: (/** @type {any} */ Backbone) => attachTo(Backbone, io),
  connect: (/** @type {any} */ url, /** @type {any} */ options) => new Connection(io).connect(url, options),
};
if (page.Backbone) page.bbio.attach(page.Backbone);
