// The broadcast server of the articles: `ws`, a set of clients per channel, a loop of `send` for every message from Redis.
//
// node server.js [PORT [REDIS_URL [PREFIX]]]; a client of /ws/NAME gets what is published on PREFIX + NAME.

import { createClient } from 'redis';
import { WebSocket, WebSocketServer } from 'ws';

const [port = '8082', url = 'redis://127.0.0.1:6379', prefix = 'notifications:'] = process.argv.slice(2);

const rooms = new Map();

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port), backlog: 4096 });
server.on('connection', (socket, request) => {
  const name = decodeURIComponent(request.url.replace(/^\/ws\//, ''));
  if (!rooms.has(name)) rooms.set(name, new Set());
  rooms.get(name).add(socket);
  socket.on('close', () => rooms.get(name).delete(socket));
  // A client that goes is nothing to report.
  socket.on('error', () => {});
});

const subscriber = createClient({ url });
subscriber.on('error', (error) => {
  console.error(`node-ws: ${error.message}`);
  process.exit(1);
});
await subscriber.connect();
await subscriber.pSubscribe(`${prefix}*`, (message, channel) => {
  for (const socket of rooms.get(channel.slice(prefix.length)) ?? []) {
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
  }
});
console.log(`listening on 127.0.0.1:${port}`);
