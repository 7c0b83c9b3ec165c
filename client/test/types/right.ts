// How TypeScript users write it; all of this must compile.
import Backbone from 'backbone';
import { attach, connect, SyncError } from 'bbio-client';
import type { Backend, BackendSpec, Collection, Handle, Member, Namespace } from 'bbio-client';
import type {} from 'bbio-client/backbone';

interface Fields {
  id?: string;
  title: string;
  likes?: number;
}

class Todo extends Backbone.Model<Fields> {
  backend: BackendSpec = { name: 'todos', channel: 'home', persist: true };
}

class Todos extends Backbone.Collection<Todo> {
  backend = () => 'todos';

  constructor() {
    super();
    this.bindBackend().on('backend:create', (todo: Todo) => console.log(todo.get('title')));
  }
}

attach(Backbone).connect('http://localhost:3000', { auth: { token: 'x' }, deadline: 5000 });
Backbone.io.connect().backend('todos', { channel: 'home' });
const todos: Todos = new Todos().unbindBackend().bindBackend();
const todo: Todo = new Todo({ title: 'milk' }, { backend: 'todos' }).bindBackend();
todos.setQuery({ done: false, sort: '-created', limit: 20 }).setQuery().setQuery(() => ({ done: true })).bindBackend();
new Backbone.Collection([], { backend: { name: 'todos', query: { done: false } } }).setQuery({ done: true });
const asked: BackendSpec = { name: 'todos', query: () => undefined };
console.log(asked);
todos.create({ title: 'milk' }, { wait: true, error: (_model, err: SyncError) => console.log(err.code, err.message) });
todo.unbindBackend().save({ title: 'tea' }, { patch: true });
todo.save({ $inc: { likes: 1 }, title: 'milk' }, { patch: true, wait: true });
new Backbone.Model().save({ $inc: { likes: 1 } }, { patch: true });
todo.save({ $append: { title: ' and bread' }, $inc: { likes: 1 } }, { patch: true });
new Backbone.Model().save({ $append: { text: 'x' } }, { patch: true });
const backend = todo.backend as Backend;
backend.ready(() => console.log(`${backend}`, backend.channel, backend.options?.version));
new Todo({ title: 'x' }, { backend });
const chat: Namespace = Backbone.IO.connect().on('connect', () => undefined).once('disconnect', console.log).off('connect').of('chat');
chat.on('said', (text: string) => chat.emit('heard', text, (answer: string) => console.log(answer, chat.id, chat.connected)));
Backbone.io.connect().emit('hello').disconnect();
Backbone.io.noConflict();

const here = todos.presence;
here.on('update', () => console.log(here.map((member) => member.get('card')?.name), here.me?.get('state'), here.get('key')?.get('connections')));
here.join({ field: 'title' }, { hidden: 'mark' }).then((presence) => console.log(presence.size, [...presence].map(({ key }) => key)));
here.set({ field: 'text' });
here.leave();
(todos.backend as unknown as Backend).send('typing', 'title').catch((err: SyncError) => console.log(err.message));
todos.on('backend:message:typing', (field: string, from: { key: string; card: Record<string, unknown> }) => console.log(field, from.card.name));
Backbone.io.connect('https://example.com', { getToken: async () => 'token' });
Backbone.io.authenticate('token').then(() => console.log('renewed'));

async function present(): Promise<void> {
  const { presence, send }: Handle = connect().backend('todos', { channel: 'home' });
  await presence.join();
  const member: Member | undefined = presence.get(presence.me ?? '');
  console.log(member?.card.name, member?.state, member?.connections, typeof send);
}
present().catch((err: SyncError) => console.log(err.name));

async function withoutBackbone(): Promise<string> {
  const milk = await connect().backend('todos').sync('create', { title: 'milk' });
  return milk.title;
}

async function live(): Promise<void> {
  const latest: Collection = await connect().backend('todos').collection({ sort: '-created', limit: 20 }, { idAttribute: '_id' }).ready();
  latest.on('change', ({ added }) => console.log(added, latest.models, latest.isMore, latest.total));
  latest.setQuery({ done: true }).more(10);
  latest.close();
}
live().catch((err: SyncError) => console.log(err.name));
withoutBackbone().catch((err: SyncError) => console.log(err.name));
