// Preloaded into Omniboard (node -r guard.js). Omniboard alone listens on every interface, answers
// anybody, and ends at the first request for an unknown file. With this it listens on loopback at
// exactly the port asked for, wants a password, and survives its own errors.
//
// Environment: MARL_PAGE_PORT, MARL_PAGE_TOKEN, MARL_PAGE_PARENT (process id), MARL_PAGE_READ_ONLY.
'use strict';

const {AsyncLocalStorage} = require('async_hooks');
const crypto = require('crypto');
const http = require('http');
const net = require('net');

const USER = 'marl';
const port = Number(process.env.MARL_PAGE_PORT);
const token = process.env.MARL_PAGE_TOKEN;
const parent = Number(process.env.MARL_PAGE_PARENT);
const readOnly = process.env.MARL_PAGE_READ_ONLY === '1';
delete process.env.MARL_PAGE_TOKEN;
if (!port || !token || !parent) {
  console.error('guard.js: MARL_PAGE_PORT, MARL_PAGE_TOKEN and MARL_PAGE_PARENT must be set');
  process.exit(2);
}

const hosts = [`127.0.0.1:${port}`, `localhost:${port}`];
const cookieName = `marl_${port}`;
const session = crypto.createHmac('sha256', token).update('session').digest('hex');
const reading = ['GET', 'HEAD', 'OPTIONS'];

function same(given, expected) {
  const digest = text => crypto.createHash('sha256').update(String(text)).digest();
  return crypto.timingSafeEqual(digest(given), digest(expected));
}

function answer(res, status, message, headers = {}) {
  if (res.headersSent) {
    res.destroy();
    return;
  }
  res.getHeaderNames().forEach(name => res.removeHeader(name));
  const body = JSON.stringify({message}) + '\n';
  res.writeHead(status, {'Content-Type': 'application/json', 'Cache-Control': 'no-store', ...headers});
  res.end(body);
}

function cookieOf(req) {
  const parts = (req.headers.cookie || '').split(';').map(part => part.trim());
  const found = parts.find(part => part.startsWith(cookieName + '='));
  return found ? found.slice(cookieName.length + 1) : '';
}

function knows(req) {
  const [scheme, credentials] = (req.headers.authorization || '').split(' ');
  if (/^basic$/i.test(scheme) && credentials) {
    const text = Buffer.from(credentials, 'base64').toString();
    const [user, password] = [text.slice(0, text.indexOf(':')), text.slice(text.indexOf(':') + 1)];
    return same(password, token) && user === USER;
  }
  return same(cookieOf(req), session);
}

// The link of the start. The cookie is for this site alone (SameSite=Strict), so that a redirection
// would not carry it when the link was followed from elsewhere; a page that goes on does.
function enter(res) {
  res.writeHead(200, {
    'Content-Type': 'text/html',
    'Cache-Control': 'no-store',
    'Referrer-Policy': 'no-referrer',
    'Set-Cookie': `${cookieName}=${session}; HttpOnly; SameSite=Strict; Path=/`
  });
  res.end('<!doctype html><meta http-equiv="refresh" content="0;url=/sacred"><a href="/sacred">Runs</a>\n');
}

// Without a query these routes would delete or change all documents of a collection.
function isSweeping(req, url) {
  if (reading.includes(req.method) || /^(POST)$/.test(req.method)) {
    return false;
  }
  if (!/\/api\/v1\/[^/]+\/?$/.test(url.pathname)) {
    return false;
  }
  try {
    const query = JSON.parse(url.searchParams.get('query'));
    const conditions = query.$or || [query];
    return !conditions.length || conditions.some(one => !Object.keys(one).length);
  } catch (e) {
    return true;
  }
}

// Files are shown as they are, with no rights on this site.
function secure(req, res, url) {
  const isFile = url.pathname.includes('/api/v1/files/');
  res.setHeader('X-Content-Type-Options', 'nosniff');
  res.setHeader('Referrer-Policy', 'no-referrer');
  res.setHeader('X-Frame-Options', 'SAMEORIGIN');
  res.setHeader('Cross-Origin-Resource-Policy', 'same-origin');
  res.setHeader('Content-Security-Policy', isFile ? 'sandbox allow-scripts' :
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'");
  const setHeader = res.setHeader;
  res.setHeader = function (name, value) {
    return /^access-control-/i.test(name) ? this : setHeader.call(this, name, value);
  };
}

// True if the request may go on to Omniboard.
function admit(req, res) {
  delete req.headers['x-http-method-override'];
  let url = null;
  try {
    url = new URL(req.url, `http://${hosts[0]}`);
    decodeURIComponent(url.pathname);
  } catch (e) {
    answer(res, 400, 'this address cannot be read');
    return false;
  }
  if (!hosts.includes(req.headers.host)) {
    answer(res, 403, `this page answers to ${hosts.join(' and ')} only; forward its own port: ` +
      `ssh -L ${port}:127.0.0.1:${port} HOST`);
    return false;
  }
  const origin = req.headers.origin;
  if (origin !== undefined && !hosts.some(host => origin === 'http://' + host)) {
    answer(res, 403, 'requests from other sites are refused');
    return false;
  }
  if (req.method === 'GET' && url.searchParams.has('token') && same(url.searchParams.get('token'), token)) {
    enter(res);
    return false;
  }
  if (!knows(req)) {
    answer(res, 401, 'open the link that was printed at the start, or give user marl and its password',
      {'WWW-Authenticate': 'Basic realm="marlcore"'});
    return false;
  }
  if (readOnly && !reading.includes(req.method)) {
    answer(res, 403, 'this page is read-only');
    return false;
  }
  if (isSweeping(req, url)) {
    answer(res, 403, 'this would change a whole collection; give a query');
    return false;
  }
  secure(req, res, url);
  return true;
}

const requests = new AsyncLocalStorage();
const open = new Set();
const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, req, res, ...rest) {
  if (event !== 'request') {
    return emit.call(this, event, req, res, ...rest);
  }
  if (!admit(req, res)) {
    return true;
  }
  open.add(res);
  res.on('close', () => open.delete(res));
  return requests.run(res, () => emit.call(this, event, req, res, ...rest));
};

// An error that nobody caught belongs to one request, whose answer would never come.
function survive(error) {
  console.error('survived:', error && error.stack || error);
  const mine = requests.getStore();
  const lost = open.has(mine) ? [mine] : [...open];
  lost.forEach(res => answer(res, 500, 'Omniboard failed at this request; its log says why'));
}
process.on('uncaughtException', survive);
process.on('unhandledRejection', survive);

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (wanted, ...rest) {
  delete process.env.MONGO_URI;
  if (Number(wanted) !== port) {  // Omniboard tries the next one if a port is taken
    console.error(`port ${port} is taken`);
    process.exit(98);
  }
  return listen.call(this, {port, host: '127.0.0.1', exclusive: true}, ...rest);
};

setInterval(() => {
  if (process.ppid !== parent) {
    process.exit(0);
  }
}, 500);
