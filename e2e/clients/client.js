// The client for Node: the cases of call.go with the modules that come with Node 18 and later.
//
// It wants the host and the override as arguments and http_proxy in its environment. Older Nodes do not look
// there, and applications send the whole URL to the proxy, as here, or use a library that does. What newer
// ones bring along is tried where it follows http_proxy.
'use strict';

const crypto = require('crypto');
const http = require('http');
const tls = require('tls');
const https = require('https');

const [host, override] = process.argv.slice(2);
const proxy = new URL(process.env.http_proxy);
const slow = 20000; // milliseconds

const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex');

// pattern returns n bytes that look random.
const pattern = (n) => (n ? crypto.createHash('shake256', { outputLength: n }).digest() : Buffer.alloc(0));

function same(what, got, want) {
  if (got !== want) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}

// fetch and WebSocket follow http_proxy since these versions, told so by NODE_USE_ENV_PROXY.
const [major, minor] = process.versions.node.split('.').map(Number);
const followsProxy = major >= 24 || (major === 22 && minor >= 21);
const without = `that of Node ${process.versions.node} does not follow http_proxy`;

const agent = new http.Agent({ keepAlive: true });

// request begins a request to the application by way of the proxy.
function request(path, options = {}) {
  const target = options.host || host;
  return http.request({
    agent, timeout: slow, ...options,
    host: proxy.hostname, port: proxy.port, path: `http://${target}${path}`, headers: { host: target, ...options.headers },
  });
}

// answered returns the answer to a request, with the body read to its end.
function answered(req) {
  return new Promise((resolve, reject) => {
    req.on('error', reject);
    req.on('timeout', () => req.destroy(new Error('no answer in time')));
    req.on('response', (res) => {
      const parts = [];
      res.on('data', (p) => parts.push(p));
      res.on('error', reject);
      res.on('end', () => { res.body = Buffer.concat(parts); resolve(res); });
    });
  });
}

async function ask(path, options, ...parts) {
  const req = request(path, options);
  const res = answered(req);
  for (const p of parts) req.write(p); // more than one write is sent in chunks
  req.end();
  return res;
}

async function echo(path, options, body) {
  const req = request(path, options);
  const res = answered(req);
  req.end(body); // Node knows the length of a body that is given at once
  return JSON.parse((await res).body);
}

const cases = {
  async get() {
    const e = await echo('/echo?a=%20b&c', { headers: { 'X-Custom': 'kept', 'Proxy-Connection': 'keep-alive' } });
    same('method', e.method, 'GET');
    same('URI', e.uri, '/echo?a=%20b&c');
    same('host', e.host, host);
    same('X-Custom', e.header['X-Custom'][0], 'kept');
    same('Proxy-Connection', e.header['Proxy-Connection'], undefined);
    same('came through the mesh', 'Via' in e.header, true);
  },

  async head() {
    for (let i = 0; i < 2; i++) { // a body would spoil the second answer
      const res = await ask('/bytes?n=100000', { method: 'HEAD' });
      same('length', res.headers['content-length'], '100000');
      same('body', res.body.length, 0);
    }
  },

  async post() {
    const body = pattern(300 << 10);
    const e = await echo('/echo', { method: 'POST' }, body);
    same('chunked', e.chunked, false);
    same('SHA-256', e.sha256, sha256(body));
  },

  async chunked() {
    const body = pattern(3 << 19);
    const req = request('/echo', { method: 'POST', headers: { Trailer: 'X-Late' } });
    const res = answered(req);
    for (let i = 0; i < body.length; i += 50000) req.write(body.subarray(i, i + 50000));
    req.addTrailers({ 'X-Late': 'at last' });
    req.end();
    const e = JSON.parse((await res).body);
    same('chunked', e.chunked, true);
    same('SHA-256', e.sha256, sha256(body));
    same('trailer', e.trailers['X-Late'][0], 'at last');
  },

  async expect() {
    const body = pattern(1 << 20);
    const req = request('/echo', { method: 'POST', headers: { Expect: '100-continue', 'Content-Length': body.length } });
    const res = answered(req);
    let told = false;
    req.on('continue', () => { told = true; req.end(body); });
    const e = JSON.parse((await res).body);
    same('told to continue', told, true);
    same('SHA-256', e.sha256, sha256(body));
  },

  async refused() {
    const req = request('/refuse', { method: 'POST', agent: false, headers: { Expect: '100-continue', 'Content-Length': 1 << 20 } });
    let told = false;
    req.on('continue', () => { told = true; });
    req.flushHeaders();
    const res = await answered(req);
    req.destroy();
    same('status', res.statusCode, 413);
    same('text', String(res.body), 'the application wants less\n');
    same('told to continue', told, false);
  },

  async early() {
    const req = request('/refuse', { method: 'POST', agent: false });
    const res = answered(req);
    for (let i = 0; i < 64; i++) req.write(Buffer.alloc(64 << 10));
    req.end();
    same('status', (await res).statusCode, 413);
    same('text', String((await res).body), 'the application wants less\n');
  },

  async keepalive() {
    const one = new http.Agent({ keepAlive: true, maxSockets: 1 });
    let made = 0;
    for (let i = 0; i < 20; i++) {
      const body = pattern(i * 1000);
      const req = request('/echo', { method: i % 2 ? 'POST' : 'PUT', agent: one });
      const res = answered(req);
      req.end(body);
      same('SHA-256', JSON.parse((await res).body).sha256, sha256(body));
      if (!req.reusedSocket) made++;
    }
    one.destroy();
    same('connections', made, 1);
  },

  async download() {
    for (const how of ['', '&chunked']) {
      const res = await ask(`/bytes?n=${4 << 20}${how}`);
      same('has a length', 'content-length' in res.headers, how === '');
      same('SHA-256', sha256(res.body), res.headers['x-sha256']);
    }
  },

  async trailers() {
    const res = await ask('/trailers');
    same('X-Sha256', res.trailers['x-sha256'], sha256(res.body));
  },

  // Each piece of the body is sent once the one before was answered.
  async streaming() {
    const req = request('/stream', { method: 'POST' });
    const words = ['one', 'two', 'three'];
    let heard = '';
    await new Promise((resolve, reject) => {
      req.on('error', reject);
      req.on('timeout', () => reject(new Error(`no more after ${JSON.stringify(heard)}`)));
      req.on('response', (res) => {
        res.on('error', reject);
        res.on('end', resolve);
        res.on('data', (p) => {
          heard += p;
          const next = words.findIndex((_, i) => heard === words.slice(0, i + 1).join('')) + 1;
          if (next === words.length) req.end();
          else if (next > 0) req.write(words[next]);
        });
      });
      req.write(words[0]);
    });
    same('answers', heard, words.join(''));
  },

  async errors() {
    for (const code of [404, 500, 503, 418, 302, 307, 204, 304]) {
      const text = code === 204 || code === 304 ? '' : `the application says ${code}\n`;
      const location = code === 302 || code === 307 ? 'http://elsewhere/' : undefined;
      const res = await ask(`/status?code=${code}${location ? `&location=${location}` : ''}`);
      same('status', res.statusCode, code);
      same('body', String(res.body), text);
      same('Location', res.headers.location, location);
      same('X-Reason', res.headers['x-reason'], 'because');
      same('tulle-code', res.headers['tulle-code'], undefined);
      same('l5d-err', res.headers['l5d-err'], undefined);
    }
  },

  async unknown() {
    const res = await ask('/', { host: 'nobody' });
    same('status', res.statusCode, 502);
    same('tulle-code', res.headers['tulle-code'], 'T201');
    same('says what to do', String(res.body).includes('check that the Service is there'), true);
  },

  async override() {
    const before = await echo('/echo');
    const during = await echo('/echo', { headers: { 'l5d-dtab': override } });
    const after = await echo('/echo');
    same('overridden', during.app !== before.app, true);
    same('after it', after.app, before.app);
  },

  async fetch() {
    if (!followsProxy) return without;
    const body = pattern(300 << 10);
    for (let i = 0; i < 3; i++) {
      const res = await fetch(`http://${host}/echo`, { method: 'POST', body });
      const e = await res.json();
      same('SHA-256', e.sha256, sha256(body));
      same('came through the mesh', 'Via' in e.header, true);
    }
  },

  async 'global websocket'() {
    if (!followsProxy) return without;
    const heard = [];
    const end = await new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${host}/ws`);
      const say = ['hello', 'ping me'];
      socket.onmessage = (e) => {
        heard.push(e.data);
        if (say.length) socket.send(say.shift());
        else socket.close(1000, 'bye');
      };
      socket.onclose = resolve;
      socket.onerror = (e) => reject(new Error(e.message));
    });
    same('messages', heard.join(), 'ready\n,hello,are you there?');
    same('clean end', end.wasClean && end.code, 1000);
  },

  async 'connect http'() {
    const one = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const socket = await tunnel(`${host}:80`);
    one.createConnection = () => socket;
    const apps = [];
    for (const headers of [{}, { 'l5d-dtab': override }, {}]) {
      const req = http.request({ agent: one, host, path: '/echo', headers });
      const res = answered(req);
      req.end();
      const e = JSON.parse((await res).body);
      same('URI', e.uri, '/echo');
      same('host', e.host, host);
      apps.push(e.app);
    }
    socket.destroy();
    same('the last is the first', apps[2], apps[0]);
    same('overridden', apps[1] !== apps[0], true);
  },

  async 'connect tcp'() {
    const socket = await tunnel(`${host}:7000`);
    const body = Buffer.concat([Buffer.from([0]), pattern(1 << 20)]);
    const heard = [];
    let sent = false;
    await new Promise((resolve, reject) => {
      socket.on('error', reject);
      socket.on('end', resolve);
      socket.on('data', (p) => {
        heard.push(p);
        if (!sent && Buffer.concat(heard).length >= 6) { sent = true; socket.end(body); } // half of it stays open
      });
    });
    const all = Buffer.concat(heard);
    same('greeting', String(all.subarray(0, 6)), 'ready\n');
    same('SHA-256', sha256(all.subarray(6)), sha256(body));
  },

  async 'connect tls'() {
    const ca = (await ask('/certificate')).body;
    const socket = tls.connect({ socket: await tunnel(`${host}:443`), ca, servername: host });
    const one = new https.Agent({ keepAlive: true, maxSockets: 1 });
    one.createConnection = () => socket;
    for (let i = 0; i < 3; i++) {
      const body = pattern(1 << 20);
      const req = https.request({ agent: one, host, path: '/echo', method: 'POST' });
      const res = answered(req);
      req.end(body);
      const e = JSON.parse((await res).body);
      same('SHA-256', e.sha256, sha256(body));
      same('Via, which nobody can add', e.header.Via, undefined);
    }
    socket.destroy();
  },

  async 'connect unknown'() {
    const error = await tunnel('nobody:443').then(() => 'none', (e) => e.message);
    same('error', error, 'CONNECT was answered 502');
  },

  async websocket() {
    await converse(request('/ws', { agent: false, headers: handshake() }));
  },

  async 'connect websocket'() {
    const socket = await tunnel(`${host}:80`);
    await converse(http.request({ createConnection: () => socket, host, path: '/ws', headers: handshake() }));
  },

  async 'connect secure websocket'() {
    const ca = (await ask('/certificate')).body;
    const socket = tls.connect({ socket: await tunnel(`${host}:443`), ca, servername: host });
    await converse(http.request({ createConnection: () => socket, host, path: '/ws', headers: handshake() }));
  },
};

// tunnel returns a socket that leads to an address.
function tunnel(address) {
  return new Promise((resolve, reject) => {
    const req = http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: address, agent: false, timeout: slow });
    req.on('error', reject);
    req.on('connect', (res, socket, head) => {
      if (res.statusCode !== 200) {
        socket.destroy();
        reject(new Error(`CONNECT was answered ${res.statusCode}`));
        return;
      }
      if (head.length) socket.unshift(head);
      socket.setTimeout(slow, () => socket.destroy(new Error('the tunnel is silent')));
      socket.allowHalfOpen = true;
      resolve(socket);
    });
    req.end();
  });
}

const handshake = () => ({
  Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13',
  'Sec-WebSocket-Key': crypto.randomBytes(16).toString('base64'),
});

// frame is one message of RFC 6455 as a client sends it: whole and masked.
function frame(opcode, message) {
  const n = message.length;
  const head = Buffer.alloc(n < 126 ? 2 : n < 65536 ? 4 : 10);
  head[0] = 0x80 | opcode;
  if (n < 126) head[1] = n;
  else if (n < 65536) { head[1] = 126; head.writeUInt16BE(n, 2); } else { head[1] = 127; head.writeBigUInt64BE(BigInt(n), 2); }
  head[1] |= 0x80;
  const mask = crypto.randomBytes(4);
  return Buffer.concat([head, mask, message.map((b, i) => b ^ mask[i % 4])]);
}

// parse takes the first message from data, or returns null while it is not whole.
function parse(data) {
  if (data.length < 2) return null;
  const short = data[1] & 0x7f;
  const start = short < 126 ? 2 : short === 126 ? 4 : 10;
  if (data.length < start) return null;
  const n = short < 126 ? short : short === 126 ? data.readUInt16BE(2) : Number(data.readBigUInt64BE(2));
  if (data.length < start + n) return null;
  return { opcode: data[0] & 0x0f, message: data.subarray(start, start + n), rest: data.subarray(start + n) };
}

// converse is a WebSocket from its handshake to its end.
async function converse(req) {
  const key = req.getHeader('Sec-WebSocket-Key');
  const [res, socket, head] = await new Promise((resolve, reject) => {
    req.on('error', reject);
    req.on('timeout', () => req.destroy(new Error('no answer in time')));
    req.on('response', (res) => reject(new Error(`the handshake was answered ${res.statusCode}`)));
    req.on('upgrade', (...all) => resolve(all));
    req.end();
  });
  same('accept', res.headers['sec-websocket-accept'],
    crypto.createHash('sha1').update(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').digest('base64'));
  same('has X-App', 'x-app' in res.headers, true);

  let data = head;
  let ended = false;
  let wake = () => {};
  socket.setTimeout(slow, () => socket.destroy(new Error('the other end is silent')));
  socket.on('data', (p) => { data = Buffer.concat([data, p]); wake(); });
  socket.on('end', () => { ended = true; wake(); });
  socket.on('close', () => { ended = true; wake(); });
  socket.on('error', (e) => { ended = e; wake(); });
  const hear = async (opcode, message) => {
    for (;;) {
      const f = parse(data);
      if (f) data = f.rest;
      if (f && f.opcode === 9) { socket.write(frame(10, f.message)); continue; } // a ping wants its pong
      if (f) {
        same('opcode', f.opcode, opcode);
        same('SHA-256', sha256(f.message), sha256(message));
        return;
      }
      if (ended) throw new Error(`it ended: ${ended}`);
      await new Promise((resolve) => { wake = resolve; });
    }
  };

  await hear(1, Buffer.from('ready\n'));
  const goodbye = Buffer.concat([Buffer.from([3, 232]), Buffer.from('bye')]); // 1000, a normal end
  for (const [opcode, back, message, answer] of [
    [1, 1, Buffer.from('hello'), Buffer.from('hello')],
    [2, 2, pattern(200 << 10), pattern(200 << 10)],
    [9, 10, Buffer.from('me'), Buffer.from('me')],
    [1, 1, Buffer.from('ping me'), Buffer.from('are you there?')],
    [2, 2, Buffer.alloc(0), Buffer.alloc(0)],
    [8, 8, goodbye, goodbye],
  ]) {
    socket.write(frame(opcode, message));
    await hear(back, answer);
  }
  while (!ended) await new Promise((resolve) => { wake = resolve; });
  same('the end', ended, true);
  socket.destroy();
}

(async () => {
  for (const [name, attempt] of Object.entries(cases)) {
    const began = Date.now();
    try {
      const missing = await attempt();
      console.log(missing ? `skip ${name}: ${missing}` : `ok ${name}: ${Date.now() - began} ms`);
    } catch (e) {
      console.log(`FAIL ${name}: ${e.message}`.replace(/\n/g, ' '));
    }
  }
  agent.destroy();
})();
