// The service of the benchmark on Feathers 5: its store in memory, a service to join a channel, and a publisher.
// With --signed-in SECRET it is for users alone: Feathers' own authentication, with its tokens and a service of users.
'use strict';
const { feathers } = require('@feathersjs/feathers');
const { AuthenticationService, JWTStrategy, authenticate } = require('@feathersjs/authentication');
const { MemoryService } = require('@feathersjs/memory');
const socketio = require('@feathersjs/socketio');

class Channels {
  constructor(app) {
    this.app = app;
  }
  async create({ name }, { connection }) {
    join(this.app, name, connection);
    return { name };
  }
}

const join = (app, name, connection) => {
  app.channel(name).join(connection);
  connection.channel = name;
};

const signIn = (app, secret) => {
  const authStrategies = ['jwt'];
  app.set('authentication', { secret, authStrategies, service: 'users', entity: 'user' });
  const authentication = new AuthenticationService(app);
  authentication.register('jwt', new JWTStrategy());
  app.use('users', new MemoryService({ startId: 2, store: { 1: { id: 1, name: 'ann' } } }));
  app.use('authentication', authentication);
  app.service('messages').hooks({ around: { all: [authenticate('jwt')] } });
  app.on('login', (result, { connection }, { data }) => join(app, data.channel, connection));
};

const app = feathers();
app.configure(socketio());
app.use('messages', new MemoryService({ startId: 1 }));
app.use('channels', new Channels(app));
app.service('messages').publish((data, { app, params: { connection } }) =>
  app.channel(connection.channel).filter((other) => other !== connection),
);
const signedIn = process.argv.indexOf('--signed-in');
if (signedIn > 0) signIn(app, process.argv[signedIn + 1]);

app.listen(Number(process.argv.at(-1)), '127.0.0.1');
