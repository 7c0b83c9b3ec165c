/** When a token is asked for, how often, and what becomes of what waits for it: without a server, by a clock that the test turns. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock } from 'node:test';
import { Identity } from '../src/core/identity.js';
import { Renewal } from '../src/core/renewal.js';
import { SyncError } from '../src/core/errors.js';
import { test } from './support.js';

let reports;
beforeEach(() => {
  reports = [];
  globalThis.reportError = (err) => reports.push(err.message);
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
});
afterEach(() => {
  mock.timers.reset();
  delete globalThis.reportError;
});

const settle = async () => {
  for (let n = 0; n < 60; n += 1) await Promise.resolve();
};
const later = async (seconds) => {
  for (let n = 0; n < 10 * seconds; n += 1) {
    mock.timers.tick(100);
    await settle();
  }
};
const outcome = (promise) => promise.then(() => 'done', (err) => err.name);
const ENDED = { error: { name: 'Unauthorized', message: 'ended', code: 401, expired: true } };
const OK = { expires_in: null };

/** A connection to `count` backends: `answer` says what each answers to a token, `none` that it does not. */
function world(count = 1, { answer = () => OK, getToken, auth = { token: 'a' } } = {}) {
  const there = { open: true, answer, engine: {} };
  const renewals = [];
  const identity = new Identity({
    renewals: () => renewals,
    isOpen: () => there.open,
    moment: () => {
      const { engine } = there;
      return () => there.open && there.engine === engine;
    },
  });
  identity.begin(auth, getToken);
  const backends = Array.from({ length: count }, (_, index) => {
    const handle = { knownAs: 'x', listened: 0, errors: [], tell: (_event, err) => handle.errors.push(err.name) };
    const backend = { handle, offered: [], flushed: 0, refused: [] };
    backend.renewal = new Renewal(identity, {
      handles: () => [handle],
      listen: () => (handle.listened += 1),
      refuse: (_, err) => backend.refused.push(err.name),
      flush: () => (backend.flushed += 1),
    });
    backend.socket = {
      emit: (_event, { token }, ack) => {
        backend.offered.push(token);
        const reply = there.answer(token, index);
        if (reply !== 'none') setTimeout(() => ack(reply), 1);
      },
    };
    renewals.push(backend.renewal);
    backend.renewal.connected(backend.socket);
    return backend;
  });
  return { there, identity, backends, all: backends.map(({ renewal }) => renewal) };
}

/** A `getToken` that gives these one after the other, the last again and again; functions are called. */
function giving(...gifts) {
  const getToken = () => {
    getToken.calls += 1;
    const gift = gifts.length > 1 ? gifts.shift() : gifts[0];
    return typeof gift === 'function' ? gift() : gift;
  };
  getToken.calls = 0;
  return getToken;
}

const joined = (identity, socket = {}) => new Promise((resolve) => identity.auth.call(socket, resolve));

test('whatever getToken does, it is asked again, later each time, and what it threw is reported', async () => {
  const fail = () => {
    throw new Error('thrown');
  };
  const getToken = giving(fail, () => Promise.reject(new Error('rejected')), null, 7, '', 'a', 'b');
  const { backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  await settle();
  assert.deepEqual([renewal.isHeld, getToken.calls], [true, 1]);
  await later(0.4);
  assert.equal(getToken.calls, 1);
  await later(100);
  assert.deepEqual([backend.offered, renewal.token, renewal.isHeld], [['b'], 'b', false]);
  const nonsense = 'getToken must return a token: a string that is not empty';
  const same = 'getToken returned the token that has ended; it must get a new one';
  assert.deepEqual(reports, ['thrown', 'rejected', nonsense, nonsense, nonsense, same]);
  assert.deepEqual(backend.handle.errors, ['Unauthorized'], 'after six failures');
});

test('a getToken that hangs is asked again after its deadline, and what it gives then counts no more', async () => {
  let late;
  const getToken = giving(() => new Promise((resolve) => (late = resolve)), 'c');
  const { backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  await later(9);
  assert.equal(getToken.calls, 1);
  await later(3);
  late('b');
  await settle();
  assert.deepEqual([backend.offered, getToken.calls, reports], [['c'], 2, ['getToken took longer than 10 s']]);
});

test('all backends wait for one call, and each gets the token', async () => {
  const getToken = giving('b');
  const { backends, all } = world(3, { getToken });
  for (const renewal of all) renewal.told({ expires_in: 60 });
  await later(0.5);
  assert.deepEqual([getToken.calls, backends.map(({ offered }) => offered)], [1, [['b'], ['b'], ['b']]]);
  for (const bad of [undefined, null, {}, { expires_in: 'soon' }, { expires_in: -1 }, { expires_in: NaN }]) all[0].told(bad);
  await later(0.5);
  assert.equal(getToken.calls, 1);
});

test('after six failures what waits is refused, and it goes on when there is a token after all', async () => {
  const getToken = giving(...Array(8).fill(''), 'b');
  const { backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  renewal.deny(backend.handle);
  await later(35);
  assert.deepEqual([getToken.calls, renewal.isHeld, backend.refused, backend.flushed > 0], [6, false, ['Unauthorized'], true]);
  assert.equal(renewal.awaits(new SyncError(ENDED.error), 'a'), false, 'nothing waits any more');
  await later(100);
  assert.deepEqual([backend.offered, renewal.token, backend.refused.length], [['b'], 'b', 1]);
});

test('failures before the token has ended cost nobody anything', async () => {
  const getToken = giving('a');
  const { backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 90 });
  await later(80);
  assert.ok(getToken.calls > 6);
  assert.deepEqual([backend.handle.errors, reports, renewal.isHeld], [[], [], false]);
  const { calls } = getToken;
  renewal.told({ expires_in: 0 });
  await later(0.5);
  assert.deepEqual([getToken.calls, renewal.isHeld], [calls + 1, true], 'it is asked at once');
});

test('a token that is another user\'s is told at once, and another is asked for a while later', async () => {
  const answer = (token) => (token === 'b' ? { error: { name: 'Forbidden', message: 'no', code: 403 } } : OK);
  const getToken = giving('b', 'c');
  const { backends: [backend], all: [renewal] } = world(1, { getToken, answer });
  renewal.told({ expires_in: 0 });
  await later(1);
  assert.deepEqual([backend.handle.errors, renewal.token, renewal.isHeld, getToken.calls], [['Forbidden'], 'a', false, 1]);
  await later(31);
  assert.deepEqual([renewal.token, getToken.calls], ['c', 2]);
});

test('a refusal of a token that has been replaced says nothing of the new one', async () => {
  const getToken = giving('b');
  const { backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  await later(0.5);
  assert.equal(renewal.awaits(new SyncError(ENDED.error), 'a'), true);
  renewal.deny(backend.handle);
  await later(0.5);
  assert.deepEqual([getToken.calls, renewal.isHeld, backend.handle.listened], [1, false, 1]);
  assert.equal(renewal.awaits(new SyncError({ name: 'Unauthorized' }), 'b'), false);
});

test('a backend that was joined with the token of before gets the new one, without another call', async () => {
  const getToken = giving('b', 'c');
  const { identity, backends: [one, two], all } = world(2, { getToken });
  two.renewal.cut();
  all[0].told({ expires_in: 0 });
  await later(0.5);
  two.renewal.connected(two.socket);
  two.renewal.token = 'a';
  assert.equal(two.renewal.awaits(new SyncError(ENDED.error), 'a'), true);
  await later(0.5);
  assert.deepEqual([one.offered, two.offered, getToken.calls, two.renewal.isHeld], [['b'], ['b'], 1, false]);
  assert.equal((await joined(identity)).token, 'b');
});

test('a token that has ended before it came is known to have', async () => {
  const answer = (token) => (token === 'b' ? ENDED : OK);
  const getToken = giving('b', 'b', 'c');
  const { backends: [backend], all: [renewal] } = world(1, { getToken, answer });
  renewal.told({ expires_in: 0 });
  await later(10);
  assert.deepEqual([backend.offered, reports.length], [['b', 'c'], 1]);
});

test('a backend that answers nothing, or not now, is told again; one that knows no tokens is none of those', async () => {
  let tries = 0;
  const answers = [() => OK, () => ((tries += 1) < 3 ? ['none', { error: { name: 'Unavailable', code: 503 } }][tries - 1] : OK)];
  const getToken = giving('b');
  const { backends: [one, two] } = world(2, { getToken, answer: (_, index) => answers[index]() });
  one.renewal.told({ expires_in: 60 });
  await later(30);
  assert.deepEqual([one.offered, two.offered], [['b'], ['b', 'b', 'b']]);

  const unknown = { error: { name: 'Unauthorized', message: 'nobody\'s', code: 401 } };
  const other = world(2, { answer: (_, index) => (index ? unknown : OK) });
  const known = outcome(other.identity.authenticate('b'));
  await later(0.5);
  assert.equal(await known, 'Unauthorized', 'it knew this user');
  other.backends[1].handle.knownAs = null;
  const open = outcome(other.identity.authenticate('c'));
  await later(0.5);
  assert.equal(await open, 'done');
});

test('without a connection nothing is asked for, and nothing refused; whoever joins the next one asks', async () => {
  const getToken = giving('', 'b');
  const { there, identity, backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  await settle();
  renewal.cut();
  there.open = false;
  await later(120);
  assert.deepEqual([getToken.calls, backend.handle.errors], [1, []]);
  there.open = true;
  const auth = joined(identity);
  await later(1);
  assert.deepEqual([await auth, getToken.calls, backend.offered], [{ token: 'b' }, 2, []]);
});

test('a join that another connection takes the place of is forgotten', async () => {
  const getToken = giving(() => new Promise((resolve) => setTimeout(resolve, 1000, 'b')));
  const { there, identity } = world(0, { getToken, auth: null });
  let given = 0;
  identity.auth.call({}, () => (given += 1));
  await settle();
  there.engine = {};
  await later(2);
  assert.equal(given, 0);
  assert.deepEqual(await joined(identity), { token: 'b' });
});

test('what a function for auth gives is kept, but for a token that is known to be newer', async () => {
  const { identity, all: [renewal] } = world(1, { auth: (give) => give({ lang: 'en', token: 'given' }) });
  assert.equal(identity.isNeeded, false);
  const taken = identity.authenticate('b');
  await later(0.5);
  await taken;
  assert.deepEqual([await joined(identity), identity.isNeeded], [{ lang: 'en', token: 'b' }, true]);
  renewal.told({ expires_in: 0 });
  assert.deepEqual(await joined(identity), { lang: 'en', token: 'given' });
});

test('authenticate comes before whatever getToken does, and the latest before the earlier', async () => {
  const getToken = giving(() => new Promise((_, reject) => setTimeout(reject, 5000, new Error('late'))));
  const { identity, backends: [backend], all: [renewal] } = world(1, { getToken });
  renewal.told({ expires_in: 0 });
  await settle();
  const calls = [identity.authenticate('b'), identity.authenticate('c')].map(outcome);
  await later(6);
  assert.deepEqual([await Promise.all(calls), renewal.token, renewal.isHeld, reports], [['Dropped', 'done'], 'c', false, []]);
  assert.deepEqual(backend.offered, ['b', 'c']);
});

test('an authenticate that fails leaves it to getToken', async () => {
  const answer = (token) => (token === 'bad' ? { error: { name: 'Unauthorized', code: 401 } } : OK);
  const getToken = giving(() => new Promise(() => {}), 'b');
  const { identity, all: [renewal] } = world(1, { getToken, answer });
  renewal.told({ expires_in: 0 });
  await settle();
  const call = outcome(identity.authenticate('bad'));
  await later(0.5);
  assert.deepEqual([await call, renewal.token], ['Unauthorized', 'b']);
});

test('a connection that goes while a token is told takes it along to the next', async () => {
  const { identity, all: [renewal], backends: [backend] } = world(1, { answer: () => 'none' });
  const call = outcome(identity.authenticate('b'));
  await settle();
  renewal.cut();
  assert.deepEqual([await call, await joined(identity)], ['done', { token: 'b' }]);
  backend.renewal.connected({});
  assert.equal(renewal.token, 'b');
});

test('getToken must be a function', () => {
  for (const bad of ['token', {}, null]) assert.throws(() => world(0, { getToken: bad }), /getToken must be a function/);
});
