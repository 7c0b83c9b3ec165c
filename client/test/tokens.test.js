/** Tokens against the server: they are renewed before they end and after, and nothing is lost, sent twice, or sent as somebody else. */
import assert from 'node:assert/strict';
import { contents, openPage, serveBehindProxy, test, until } from './support.js';

const { server, proxy } = await serveBehindProxy();

let count = 0;
const next = (user, warn) => [user, (count += 1), ...(warn ? [warn] : [])].join('/');
const outcome = (promise) => promise.then(() => 'done', (err) => err.name);
const heard = (target, event) => new Promise((resolve) => target.once(event, resolve));

/** A page of a user that gets tokens when it is asked for: what it was given is in `tokens`, what travels in `packets`. */
function pageOf(user, { url = proxy.url, warn, ...connect } = {}) {
  const tokens = [];
  const packets = [];
  const getToken = () => {
    tokens.push(next(user, warn));
    return tokens.at(-1);
  };
  const Backbone = openPage(url, { heard: packets, connect: { getToken, ...connect } });
  return { Backbone, io: Backbone.io, connection: Backbone.io.connection, tokens, packets };
}

const place = (name = 'signed') => ({ name, channel: `tokens ${(count += 1)}` });
const bound = async (Backbone, spec) => {
  const list = new Backbone.Collection([], { backend: spec }).bindBackend();
  await list.fetch();
  return list;
};

/** Somebody who ends tokens. */
const ending = () => {
  const ends = openPage(server.url).io.connection.backend('ends');
  return (...tokens) => ends.sync('create', { tokens });
};

/** Somebody else's handle of a channel, and what is held there. */
function witnessOf(spec) {
  const handle = openPage(server.url, { connect: { auth: { token: next('witness') } } }).io.connection.backend(spec.name, spec);
  return { handle, held: async () => (await handle.sync('read')).map(({ by, text }) => [by, text]) };
}

const failed = (target) => new Promise((resolve) => target.once('error', (_, err) => resolve(err)));
const said = (packets, event) => packets.filter(([name]) => name === event);

test('getToken is called once for all backends that are joined, and what else auth says is sent too', async () => {
  const { Backbone, connection, tokens } = pageOf('ann', { auth: { lang: 'en' } });
  const [spec, other] = [place(), place('twin')];
  await Promise.all([bound(Backbone, spec), bound(Backbone, other)]);
  const [{ auth }] = await connection.backend('guests').sync('read');
  assert.deepEqual([tokens.length, auth], [1, { lang: 'en', token: tokens[0] }]);
});

test('a token is replaced before it ends, once for all backends, and nothing else happens', async () => {
  const { Backbone, tokens, packets } = pageOf('ann', { warn: 100, getToken: undefined, auth: { token: next('ann', 100) } });
  const spec = place();
  const { Backbone: mine, packets: own, tokens: mineTokens } = pageOf('ann', { auth: { token: next('ann', 100) }, getToken: async () => (mineTokens.push(next('ann')), mineTokens.at(-1)) });
  const lists = await Promise.all([bound(mine, spec), bound(mine, place('twin'))]);
  await until(() => said(own, 'auth').filter(([, { token }]) => token).length === 2);
  const { handle } = witnessOf(spec);
  await handle.sync('create', { text: 'then' });
  await until(() => lists[0].length === 1);
  assert.deepEqual([mineTokens.length, said(own, 'listen').length], [1, 2]);
  // Who gives no getToken hears of it as of any event of the backend.
  const told = heard(Backbone.io.connection.of('signed'), 'auth');
  await bound(Backbone, spec);
  assert.ok((await told).expires_in > 90);
  assert.deepEqual([tokens, said(packets, 'auth').filter(([, { token }]) => token)], [[], []]);
});

test('what waits when a token has ended is sent once with the next, and what was missed is told', async () => {
  const end = ending();
  let give;
  const tokens = [next('ann')];
  const getToken = () => (tokens.length === 1 ? new Promise((resolve) => (give = resolve)) : tokens.at(-1));
  const { Backbone, packets } = pageOf('ann', { auth: { token: tokens[0] }, getToken });
  const spec = place();
  const { handle, held } = witnessOf(spec);
  const list = await bound(Backbone, spec);
  const told = [];
  list.on('all', (event) => /^remote:(reset|dropped)|^error/.test(event) && told.push(event));
  await end(tokens[0]);
  await until(() => give);
  await handle.sync('create', { text: 'missed' });
  const before = packets.length;
  const kept = Backbone.io.connection.backend('signed', spec);
  const writes = ['one', 'two'].map((text) => kept.sync('create', { text }));
  const read = kept.sync('read');
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.deepEqual(said(packets.slice(before), 'sync'), []);
  tokens.push(next('ann'));
  give(tokens[1]);
  await Promise.all(writes);
  assert.ok((await read).length >= 1);
  await until(() => list.length === 3);
  assert.deepEqual(await held(), [['witness', 'missed'], ['ann', 'one'], ['ann', 'two']]);
  assert.deepEqual([told, said(packets.slice(before), 'sync').length], [[], 3]);
  assert.deepEqual(list.pluck('text').sort(), ['missed', 'one', 'two']);
});

test('what was refused because a token had ended is sent once more, under the same operation id', async () => {
  const end = ending();
  const page = pageOf('ann');
  const spec = place();
  const list = await bound(page.Backbone, spec);
  const { socket } = list.backend;
  // The server's word that the token has ended is lost: the refusal alone says it.
  const handle = page.connection.backend('signed', spec);
  const told = handle.session.renewal.told;
  handle.session.renewal.told = () => {};
  assert.ok(socket.connected);
  const ended = end(page.tokens[0]);
  await ended;
  const before = page.packets.length;
  list.create({ text: 'mine' });
  await until(() => said(page.packets.slice(before), 'sync').length === 2);
  handle.session.renewal.told = told;
  const [first, second] = said(page.packets.slice(before), 'sync').map(([, { op }]) => op);
  assert.deepEqual(first, second);
  await until(async () => (await witnessOf(spec).held()).length === 1);
  await until(() => !list.at(0).isNew());
  assert.deepEqual(page.tokens.length, 2);
});

test('without getToken requests are refused and the page is told; authenticate has subscriptions go on without loss', async () => {
  const end = ending();
  const token = next('ann');
  const { Backbone, io, packets } = pageOf('ann', { auth: { token }, getToken: undefined });
  const spec = place();
  const { handle } = witnessOf(spec);
  const list = await bound(Backbone, spec);
  const refused = failed(list);
  await end(token);
  assert.deepEqual([(await refused).name, (await refused).expired], ['Unauthorized', true]);
  const kept = io.connection.backend('signed', spec);
  assert.equal(await outcome(kept.sync('create', { text: 'refused' })), 'Unauthorized');
  await handle.sync('create', { text: 'missed' });
  const before = packets.length;
  assert.equal(await outcome(io.authenticate(token)), 'Unauthorized');
  await io.authenticate(next('ann'));
  await until(() => list.length === 1);
  await kept.sync('create', { text: 'mine' });
  await until(() => list.length === 2);
  // The list of packets has some of them twice.
  assert.deepEqual([...new Set(said(packets.slice(before), 'sync').map(([, { method }]) => method))], ['create']);
});

test('presence goes on with the next token', async () => {
  const [end, spec, token] = [ending(), place(), next('ann')];
  let give;
  const { connection } = pageOf('ann', { auth: { token }, getToken: () => new Promise((resolve) => (give = resolve)) });
  const [ann, { handle: other }] = [connection.backend('signed', spec), witnessOf(spec)];
  const errors = [];
  ann.presence.on('error', (err) => errors.push(err.name));
  await ann.presence.join({ n: 1 });
  await other.presence.join();
  await end(token);
  await until(() => other.presence.size === 1 && give);
  // Whoever asks meanwhile is not turned away.
  const refused = new Promise((resolve) => { ann.presence.paused = () => resolve(Object.getPrototypeOf(ann.presence).paused.call(ann.presence)); });
  const joined = ann.presence.join({ n: 2 });
  await refused;
  give(next('ann'));
  await joined;
  await until(() => other.presence.size === 2 && ann.presence.size === 2);
  assert.deepEqual([other.presence.get(ann.presence.me).state, errors], [{ n: 2 }, []]);
});

test('without getToken who wants to be present hears why it is not, and is present after authenticate', async () => {
  const [end, spec, token] = [ending(), place(), next('ann')];
  const { io, connection } = pageOf('ann', { auth: { token }, getToken: undefined });
  const [ann, { handle: other }] = [connection.backend('signed', spec), witnessOf(spec)];
  await other.presence.join();
  await ann.presence.join({ n: 1 });
  await end(token);
  await until(() => other.presence.size === 1);
  assert.equal(await outcome(ann.presence.join({ n: 2 })), 'Unauthorized');
  assert.deepEqual([ann.presence.size, ann.presence.me], [0, undefined]);
  await io.authenticate(next('ann'));
  await until(() => other.presence.size === 2 && ann.presence.size === 2);
  assert.deepEqual(other.presence.get(ann.presence.me).state, { n: 2 });
});

test('authenticate is for the same user alone, and a token that is refused is not kept', async () => {
  const { Backbone, io, connection } = pageOf('ann', { auth: { token: next('ann') }, getToken: undefined });
  await Promise.all([bound(Backbone, place()), bound(Backbone, place('twin'))]);
  const guests = connection.backend('guests');
  await guests.sync('read');
  assert.equal(await outcome(io.authenticate(next('bob'))), 'Forbidden');
  assert.equal(await outcome(io.authenticate('nonsense')), 'Unauthorized');
  for (const bad of [undefined, null, '', 7, {}]) assert.equal(await outcome(io.authenticate(bad)), 'TypeError');
  const token = next('ann');
  await io.authenticate(token);
  const reconnected = heard(guests, 'online');
  proxy.cut();
  await reconnected;
  assert.equal((await guests.sync('read'))[0].auth.token, token);
});

test('who was nobody is somebody from then on, and later writes are theirs', async () => {
  const spec = { name: 'signed', channel: 'open' };
  const { Backbone, io } = pageOf('ann', { getToken: undefined });
  const list = await bound(Backbone, spec);
  const handle = io.connection.backend('signed', spec);
  assert.equal(handle.knownAs, null);
  await io.authenticate(next('ann'));
  await until(() => typeof handle.knownAs === 'string');
  await handle.sync('create', { text: 'mine' });
  assert.deepEqual((await witnessOf(spec).held()).at(-1), ['ann', 'mine']);
  await until(() => list.length >= 1);
});

test('a connection that comes back with a token that is known to have ended asks for another first', async () => {
  const end = ending();
  const page = pageOf('ann');
  const spec = place();
  const list = await bound(page.Backbone, spec);
  const gone = heard(list, 'remote:offline');
  proxy.refuse = true;
  proxy.cut();
  await gone;
  page.connection.identity.told({ token: page.tokens[0] }, 0);
  await end(page.tokens[0]);
  list.create({ text: 'waits' });
  proxy.refuse = false;
  await until(() => !list.at(0).isNew());
  assert.deepEqual([page.tokens.length, (await witnessOf(spec).held())], [2, [['ann', 'waits']]]);
});

for (const queue of ['drop', 'keep']) {
  test(`what waits for a new token is not sent as who logs in next: ${queue}`, async () => {
    const end = ending();
    const tokens = [next('ann')];
    const page = pageOf('ann', { queue, auth: { token: tokens[0] }, getToken: () => new Promise(() => {}) });
    const spec = place();
    const list = await bound(page.Backbone, spec);
    await end(tokens[0]);
    const handle = page.connection.backend('signed', spec);
    await until(() => handle.session.renewal.isHeld);
    const write = outcome(handle.sync('create', { text: 'private' }));
    page.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, queue, getToken: () => next('bob') });
    await handle.sync('create', { text: "bob's" });
    assert.deepEqual(await witnessOf(spec).held(), [['bob', "bob's"]]);
    if (queue === 'drop') assert.equal(await write, 'Dropped');
    else {
      page.io.connect(proxy.url, { transports: ['websocket'], jitter: 20, queue, auth: { token: tokens[0] }, getToken: () => next('ann') });
      assert.equal(await write, 'done');
    }
    await until(() => contents(list).length === (queue === 'drop' ? 1 : 2));
  });
}

test('a getToken that begins to give the tokens of another user writes nothing as that one', async () => {
  const end = ending();
  const first = next('ann');
  const { Backbone, connection } = pageOf('ann', { auth: { token: first }, getToken: () => next('bob') });
  const spec = place();
  const list = await bound(Backbone, spec);
  const refused = failed(list);
  await end(first);
  const handle = connection.backend('signed', spec);
  const write = outcome(handle.sync('create', { text: 'private' }));
  assert.equal((await refused).name, 'Forbidden');
  // With the reason if the listen had been refused before, else with what the server says.
  assert.ok(['Forbidden', 'Unauthorized'].includes(await write));
  assert.deepEqual(await witnessOf(spec).held(), []);
});
