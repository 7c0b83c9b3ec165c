// Every line marked "wrong" must be refused, and no other.
import Backbone from 'backbone';
import { connect } from 'bbio-client';
import type { BackendSpec } from 'bbio-client';
import type {} from 'bbio-client/backbone';

class Nameless extends Backbone.Collection {
  backend = { channel: 'home' }; // wrong
}

class Numbered extends Backbone.Model {
  backend = 7; // wrong
}

const spec: BackendSpec = { name: 'todos', chanel: 'home' }; // wrong
const nowhere: BackendSpec = { name: 'todos', channel: null }; // wrong
const todos = new Backbone.Collection();
todos.bindBackend('todos'); // wrong
const other: string = todos.unbindBackend(); // wrong
todos.bindBackends(); // wrong
new Backbone.View().bindBackend(); // wrong
Backbone.io.conect(); // wrong
Backbone.io.connection.backend(); // wrong
Backbone.io.connect().once('connect'); // wrong
Backbone.IO.connect().of(7); // wrong
connect('http://localhost:3000', { deadline: 'soon' }); // wrong
class Counter extends Backbone.Model<{ likes: number; tags: string[]; name: string }> {}
new Counter().save({ $inc: { likes: 1 } }); // wrong
new Counter().save({ $inc: { tags: 1 } }, { patch: true }); // wrong
new Counter().save({ $inc: { likes: true } }, { patch: true }); // wrong
new Counter().save({ $inc: { hates: 1 } }, { patch: true }); // wrong
new Counter().save({ $append: { likes: 'x' } }, { patch: true }); // wrong
new Counter().save({ $append: 'x' }, { patch: true }); // wrong
connect().backend('todos').collection({}, { id: '_id' }); // wrong
connect().backend('todos').collection().more('all'); // wrong
todos.setQuery('done'); // wrong
todos.presence.create({ name: 'Ann' }); // wrong
todos.presence.join('here'); // wrong
todos.presence.join({}, { hidden: 'never' }); // wrong
todos.presence.set(7); // wrong
new Backbone.Model().presence.leave(); // wrong
connect().backend('todos').send(7); // wrong
connect('http://localhost:3000', { getToken: 'token' }); // wrong
Backbone.io.authenticate(7); // wrong
new Backbone.Model().setQuery({ done: true }); // wrong
const bad: BackendSpec = { name: 'todos', query: 7 }; // wrong
