/** Who is there, and what they tell each other, in the core and in Backbone. */
import assert from 'node:assert/strict';
import { after, afterEach } from 'node:test';
import { io } from 'socket.io-client';
import * as source from '../src/index.js';
import { openPage, serveBehindProxy, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();
const open = [];
let channels = 0;

/** A client of the channel: the handle of a connection of its own. */
function client(channel, { user, url = server.url, ...more } = {}) {
  const auth = user ? { user } : undefined;
  const connection = source.connect(url, { transports: ['websocket'], reconnectionDelay: 20, reconnectionDelayMax: 40, jitter: 20, auth, ...more });
  open.push(connection);
  return connection.backend('present', { channel });
}

const channel = () => `room ${(channels += 1)}`;
const names = (presence) => [...presence].map(({ card }) => card.name).sort();
const failure = (promise) => promise.then(() => assert.fail('it succeeded'), (err) => err);
afterEach(() => {
  for (const connection of open.splice(0)) connection.close();
  delete globalThis.document;
});
after(() => setTimeout(() => process.exit(), 1000).unref());

test('shows who is there, for as long as they are', async () => {
  const room = channel();
  const [ann, bob] = [client(room, { user: 'ann' }), client(room, { user: 'bob' })];
  const heard = [];
  for (const event of ['add', 'change', 'remove']) ann.presence.on(event, ({ card }) => heard.push([event, card.name]));
  assert.equal(ann.presence.size, 0);
  assert.equal(await ann.presence.join({ looking: true }), ann.presence);
  assert.deepEqual([...ann.presence], [{ key: ann.presence.me, card: { name: 'ann' }, state: { looking: true }, connections: 1 }]);
  await bob.presence.join();
  assert.deepEqual(names(bob.presence), ['ann', 'bob']);
  await until(() => ann.presence.size === 2);
  bob.presence.set({ typing: true });
  await until(() => ann.presence.get(bob.presence.me).state.typing);
  bob.presence.leave();
  assert.deepEqual([bob.presence.size, bob.presence.me], [0, undefined]);
  await until(() => ann.presence.size === 1);
  assert.deepEqual(heard, [['add', 'ann'], ['add', 'bob'], ['change', 'bob'], ['remove', 'bob']]);
});

test('several tabs of a user are one member, which stays for a moment after the last', async () => {
  const room = channel();
  const [ann, one, two] = [client(room, { user: 'ann' }), ...[1, 2].map(() => client(room, { user: 'bob', url: proxy.url }))];
  for (const { presence } of [ann, one, two]) await presence.join();
  await until(() => ann.presence.size === 2 && ann.presence.get(one.presence.me).connections === 2);
  assert.equal(one.presence.me, two.presence.me);
  const { me } = one.presence;
  proxy.refuse = true;
  proxy.cut();
  await until(() => ann.presence.get(me).connections === 0);
  await until(() => ann.presence.get(me) === undefined);
});

test('is there again after a lost connection, and what it says meanwhile is told', async () => {
  const room = channel();
  const [ann, bob] = [client(room, { user: 'ann' }), client(room, { user: 'bob', url: proxy.url })];
  const gone = [];
  ann.presence.on('remove', ({ card }) => gone.push(card.name));
  await ann.presence.join();
  await bob.presence.join({ n: 0 });
  const lost = new Promise((resolve) => bob.on('offline', resolve));
  proxy.cut();
  await lost;
  bob.presence.set({ n: 1 });
  await until(() => ann.presence.get(bob.presence.me)?.state.n === 1);
  assert.deepEqual(gone, []);
});

test('many changes are few packets, and the latest counts', async () => {
  const room = channel();
  const [ann, bob] = [client(room, { user: 'ann' }), client(room, { user: 'bob' })];
  await ann.presence.join();
  await bob.presence.join();
  let changes = 0;
  ann.presence.on('change', () => (changes += 1));
  for (let n = 0; n < 1000; n += 1) bob.presence.set({ n });
  await until(() => ann.presence.get(bob.presence.me)?.state.n === 999);
  assert.ok(changes <= 2, `${changes} changes`);
});

test('a batch that is missing has the list asked for', async () => {
  const room = channel();
  const [ann, bob] = [client(room, { user: 'ann' }), client(room, { user: 'bob' })];
  await ann.presence.join();
  await bob.presence.join();
  await until(() => ann.presence.size === 2);
  const { me } = bob.presence;
  ann.presence.told({ epoch: 'another', seq: 1, left: [me] });
  assert.equal(ann.presence.size, 2, 'not believed');
  const drop = ann.presence.told;
  ann.presence.told = () => (ann.presence.told = drop);
  bob.presence.leave();
  await until(() => ann.presence.told === drop);
  assert.equal(ann.presence.size, 2, 'it has not heard of it');
  await client(room, { user: 'cyd' }).presence.join();
  await until(() => names(ann.presence).join() === 'ann,cyd');
});

test('who is kept out hears why', async () => {
  const heard = [];
  const closed = client('closed');
  closed.presence.on('error', (err) => heard.push(err.name));
  assert.equal((await failure(closed.presence.join())).message, 'nobody sees you here');
  assert.equal((await failure(client(channel()).presence.join({ text: 'x'.repeat(2000) }))).name, 'BadRequest');
  assert.equal((await failure(source.connect(server.url, { transports: ['websocket'] }).backend('rooms').presence.join())).message, "'rooms' has no presence");
  assert.deepEqual(heard, ['Forbidden']);
  for (const state of [null, [], 'x', 7, () => {}]) assert.throws(() => closed.presence.set(state), /the state of a member is an object/);
  assert.throws(() => closed.presence.join({}, { hidden: 'away' }), /hidden is one of mark, leave, stay/);
  const left = client(channel()).presence;
  const joining = left.join();
  left.leave();
  assert.equal((await failure(joining)).name, 'Unavailable');
  assert.equal((await failure(source.connect('http://127.0.0.1:1', { deadline: 20 }).backend('present').presence.join())).name, 'Timeout');
});

test('a hidden page says so, or is not there; another tab that is seen says that', async () => {
  const page = new EventTarget();
  const show = (visibilityState) => {
    page.visibilityState = visibilityState;
    page.dispatchEvent(new Event('visibilitychange'));
  };
  const room = channel();
  const [ann, bob, other] = [client(room, { user: 'ann' }), client(room, { user: 'bob' }), client(room, { user: 'bob' })];
  await ann.presence.join();
  globalThis.document = page;
  page.visibilityState = 'hidden';
  await bob.presence.join({ n: 1 }, { hidden: 'mark' });
  const shown = () => ann.presence.get(bob.presence.me)?.state;
  await until(() => shown()?.hidden === true);
  show('visible');
  await until(() => shown()?.hidden === undefined && shown()?.n === 1);
  delete globalThis.document;
  await other.presence.join({ n: 2, hidden: true });
  await until(() => ann.presence.get(bob.presence.me).connections === 2);
  await until(() => shown().n === 1, 'the tab that is seen says what it has said again');
  other.presence.leave();
  globalThis.document = page;
  await bob.presence.join({ n: 3 }, { hidden: 'leave' });
  await until(() => shown()?.n === 3);
  show('hidden');
  await until(() => ann.presence.size === 1);
  show('visible');
  await until(() => ann.presence.size === 2);
  bob.presence.leave();
  show('hidden');
  show('visible');
  await until(() => ann.presence.size === 1);
});

test('messages are told to the others of the channel', async () => {
  const room = channel();
  const [ann, bob, cyd] = [client(room, { user: 'ann' }), client(room, { user: 'bob' }), client(channel(), { user: 'cyd' })];
  const heard = [];
  for (const [who, handle] of Object.entries({ ann, bob, cyd })) {
    handle.on('message:typing', (data, from) => heard.push([who, data, from.card.name]));
    handle.on('message', (name) => heard.push([who, name]));
  }
  await new Promise((resolve) => bob.on('listening', resolve));
  await ann.send('typing', ['x']);
  await until(() => heard.length === 2);
  assert.deepEqual(heard, [['bob', { said: ['x'] }, 'ann'], ['bob', 'typing']]);
  assert.equal((await failure(ann.send('typing', 'bad'))).message, 'not so');
  assert.equal((await failure(ann.send('shouting'))).message, "'present' has no message of this name");
  assert.equal((await failure(ann.send('typing', 'x'.repeat(5000)))).name, 'BadRequest');
});

test('a message waits for no connection', async () => {
  const room = channel();
  const ann = client(room, { user: 'ann', url: proxy.url });
  await ann.send('typing');
  const lost = new Promise((resolve) => ann.on('offline', resolve));
  proxy.deaf = true;
  const unanswered = failure(ann.send('typing'));
  proxy.refuse = true;
  proxy.cut();
  await lost;
  assert.match((await unanswered).message, /was lost before the message "typing" was answered/);
  assert.match((await failure(ann.send('typing'))).message, /a message does not wait for one/);
  assert.equal((await failure(client(room, { url: 'http://127.0.0.1:1', deadline: 20 }).send('typing'))).name, 'Timeout');
});

test('who may not listen is told so in place of being present', async () => {
  const closed = source.connect(server.url, { transports: ['websocket'] });
  open.push(closed);
  const err = await failure(closed.backend('closed').presence.join());
  assert.ok(['Forbidden', 'BadRequest', 'Unauthorized'].includes(err.name), err.name);
});

test('older clients are told neither', async () => {
  const room = channel();
  const old = io(`${server.url}/present`, { transports: ['websocket'], forceNew: true });
  const heard = [];
  old.onAny((event) => heard.push(event));
  await old.emitWithAck('listen', room);
  const ann = client(room, { user: 'ann' });
  await ann.presence.join();
  await ann.send('typing');
  await ann.sync('create', { title: 'milk' });
  await until(() => heard.includes('synced'));
  assert.deepEqual(heard, ['synced']);
  old.disconnect();
});

test('in Backbone, members are a collection', async () => {
  const room = channel();
  const make = (user) => {
    const Backbone = openPage(server.url, { connect: { auth: { user } } });
    return new (Backbone.Collection.extend({ backend: { name: 'present', channel: room } }))().bindBackend();
  };
  const [ann, bob] = [make('ann'), make('bob')];
  const heard = [];
  const { presence } = ann;
  assert.equal(ann.presence, presence, 'one for all who ask');
  presence.on('add change remove', (member) => heard.push(member.get('card').name));
  assert.equal(presence.me, undefined);
  await presence.join({ looking: true });
  assert.deepEqual(presence.me.toJSON(), { key: presence.me.id, card: { name: 'ann' }, state: { looking: true }, connections: 1 });
  await bob.presence.join();
  await until(() => presence.length === 2);
  bob.presence.set({ typing: true });
  await until(() => presence.get(bob.presence.me.id).get('state').typing);
  const said = new Promise((resolve) => bob.on('remote:message:typing', (data, from) => resolve([data, from.card.name])));
  await ann.backend.send('typing', 'title');
  assert.deepEqual(await said, [{ said: 'title' }, 'ann']);
  bob.presence.leave();
  await until(() => presence.length === 1);
  assert.deepEqual(heard, ['ann', 'bob', 'bob', 'bob']);
  for (const name of ['add', 'remove', 'reset', 'push', 'create', 'fetch']) assert.throws(() => presence[name](), /who is present is the server's to say/);
  assert.throws(() => presence.me.save(), /who is present is the server's to say/);
  const { Collection } = openPage();
  assert.equal(new Collection().presence, undefined);
  const own = new Collection();
  own.presence = 'mine';
  assert.equal(own.presence, 'mine');
});

test('in Backbone, a refusal is an error event; unbound collections are present too', async () => {
  const Backbone = openPage(server.url);
  const closed = new (Backbone.Collection.extend({ backend: { name: 'present', channel: 'closed' } }))();
  const told = new Promise((resolve) => closed.presence.on('error', (members, err) => resolve(err.message)));
  closed.presence.join();
  assert.equal(await told, 'nobody sees you here');
  const unbound = new (Backbone.Collection.extend({ backend: { name: 'present', channel: channel() } }))();
  await unbound.presence.join();
  assert.equal(unbound.presence.length, 1);
});

test('who is put out is told, and comes back if it may', async () => {
  const room = channel();
  const ann = client(room, { user: 'ann' });
  await ann.presence.join();
  let joins = 0;
  ann.presence.on('add', () => (joins += 1));
  ann.session.ask(ann, null, () => {});
  ann.presence.told(null);
  await until(() => ann.presence.me);
  await client(room, { user: 'bob' }).presence.join();
  await until(() => ann.presence.size === 2);
});

test('a backend that is said in initialize is a Backend, bound or not, as one of the class is', async () => {
  const room = channel();
  const Backbone = openPage(server.url);
  const handle = client(room, { user: 'bob' });
  const Bound = Backbone.Collection.extend({
    initialize(models, options) {
      this.backend = { name: 'present', channel: options.room };
      this.bindBackend();
    },
  });
  const Unbound = Backbone.Collection.extend({ initialize() { this.backend = { name: 'present', channel: room }; } });
  const [bound, unbound] = [new Bound([], { room }), new Unbound()];
  assert.equal(bound.backend, unbound.backend);
  const told = [];
  handle.on('message:typing', (data) => told.push(data));
  await handle.presence.join();
  for (const list of [bound, unbound]) await list.backend.send('typing', 'title');
  await until(() => told.length === 2);
  assert.deepEqual(told[0], { said: 'title' });
});
