/**
 * What bbio adds to Backbone, for `@types/backbone`. Import it once, anywhere in a project:
 *
 *     import type {} from 'bbio-client/backbone';
 */
import type { BackboneIO, Backend, BackendSpec } from 'bbio-client';

declare module 'backbone' {
  /** What models and collections share. */
  interface ModelBase {
    /** The backend that syncs go to; a model without one uses its collection's. Once made, an object has a `Backend`. */
    backend?: BackendSpec | Backend | (() => BackendSpec | undefined) | undefined;

    /**
     * Keep this collection or model like the backend, from now on.
     * @throws {Error} it has no backend
     */
    bindBackend(): this;

    /** Stop following the backend; syncs go on as before. */
    unbindBackend(): this;
  }

  interface Collection<TModel extends Model> {
    /** What the server told of the latest fetch with a query. */
    page?: { next: string | null; total?: number };
  }

  const io: BackboneIO;
  /** The same, as backbone.io named it too. */
  const IO: BackboneIO;
}
