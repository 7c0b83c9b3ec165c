/**
 * What bbio adds to Backbone, for `@types/backbone`. Import it once, anywhere in a project:
 *
 *     import type {} from 'bbio-client/backbone';
 */
import type { BackboneIO, Backend, BackendSpec, Member, Presence, Query } from 'bbio-client';

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

  /** Numbers to add to fields; a decimal number may be a text. */
  type Counts<T> = { [K in keyof T as NonNullable<T[K]> extends number | string ? K : never]?: number | string };

  /** Texts to add to the end of fields. */
  type Appends<T> = { [K in keyof T as NonNullable<T[K]> extends string ? K : never]?: string };

  /** What the server adds to whatever it holds by then, and what it sets beside that. */
  type Operations<T> = Partial<T> & ({ $inc: Counts<T>; $append?: Appends<T> } | { $append: Appends<T> });

  interface Model<T extends ObjectHash = any, S = ModelSetOptions, E = any> {
    /** Count and append: have the server add to what it holds by then, and set the attributes beside it. */
    save(attributes: Operations<T>, options: ModelSaveOptions & { patch: true }): JQueryXHR;
  }

  /** Who is present in a channel: read-only but for the own presence. */
  interface PresentMembers extends Pick<Collection<Model<Member>>, 'models' | 'length' | 'get' | 'at' | 'map' | 'each' | 'filter' | 'find' | 'on' | 'once' | 'off' | 'toJSON'> {
    /** The own member; undefined while this client is not present. */
    readonly me?: Model<Member>;
    /** Be present, until `leave`; resolves when the server has told who else is. */
    join(...args: Parameters<Presence['join']>): Promise<Presence>;
    /** Say something else: this state takes the place of the one before. */
    set(state: Record<string, any>): void;
    /** Be present no more, and see nobody any more. */
    leave(): void;
  }

  interface Collection<TModel extends Model> {
    /** Who is present in the channel. Without a backend there is nobody. */
    readonly presence: PresentMembers;

    /** What the server told of the latest fetch with a query. */
    page?: { next: string | null; total?: number };

    /**
     * Hold what another query finds, from now on: a bound collection reads it at once. None: everything.
     * @throws {Error} it has no backend
     */
    setQuery(query?: Query | (() => Query | undefined)): this;
  }

  const io: BackboneIO;
  /** The same, as backbone.io named it too. */
  const IO: BackboneIO;
}
