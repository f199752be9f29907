// The Node guest: waits in a started process for a program, and becomes it. Descriptors as in python.py.
'use strict';
const fs = require('fs');
const Module = require('module');
const path = require('path');
const vm = require('vm');
const { rehearse, preload } = require('./ahead.js');
const GO = 3, PAYLOAD = 4, RESULT = 5, STATUS = 6;
const MAX_RESULT_BYTES = 1024 * 1024;

function readExactly(fd, length, position) {
  const buffer = Buffer.alloc(length);
  let have = 0;
  while (have < length) {
    const got = fs.readSync(fd, buffer, have, length - have, position === null ? null : position + have);
    if (got === 0) return null;
    have += got;
  }
  return buffer;
}

function writeAll(fd, data) {
  let done = 0;
  while (done < data.length) done += fs.writeSync(fd, data, done);
}

// JSON would make null of NaN, and nothing of a function: what is lost without a word is refused, as in Python.
function carried(key, value) {
  if ((typeof value === 'number' || value instanceof Number) && !Number.isFinite(Number(value))) {
    throw new RangeError(`the result is not JSON: ${value} is no number there`);
  }
  if (typeof value === 'bigint') throw new TypeError('the result is not JSON: it has a BigInt in it');
  return value;
}

function toJson(value) {
  if (value === undefined) return 'null';
  try {
    const json = JSON.stringify(value, carried);
    if (json === undefined) throw new TypeError(`the result is not JSON: it is a ${typeof value}`);
    return json;
  } catch (error) {
    if (!/^Converting circular structure/.test(String(error && error.message))) throw error;
    throw new TypeError('the result is not JSON: it has itself in it');
  }
}

function result(value) {
  const data = Buffer.from(toJson(value), 'utf8');
  if (data.length > MAX_RESULT_BYTES) {
    throw new RangeError(`the result is ${data.length} bytes of JSON; at most ${MAX_RESULT_BYTES} are taken`);
  }
  const header = Buffer.alloc(4);
  header.writeUInt32LE(data.length);
  writeAll(RESULT, Buffer.concat([header, data]));
}

function isModule(code) {
  try {
    new vm.Script(Module.wrap(code), { filename: '/work/main.js' });
    return false;
  } catch (error) {
    return /import statement|import\.meta|'export'|await is only valid/.test(String(error && error.message));
  }
}

// Throws, with a message for standard error, if they cannot all be put in place.
function unpack(files, contents) {
  let done = 0;
  for (const [name, size] of files) {
    const place = path.join('/work', name);
    fs.mkdirSync(path.dirname(place), { recursive: true });
    fs.writeFileSync(place, contents.subarray(done, done + size), { flag: 'wx' });
    done += size;
  }
}

function refuse(error) {
  fs.writeSync(2, `the files cannot be put in place: ${error.code}\n`);
  process.exit(1);
}

function placed(code) {
  const file = isModule(code) ? '/work/main.mjs' : '/work/main.js';
  fs.writeFileSync(file, code);
  return file;
}

function become({ code, entrypoint, env }) {
  for (const name of Object.keys(process.env)) delete process.env[name];
  Object.assign(process.env, env);
  Object.defineProperty(globalThis, 'enclave', { value: Object.freeze({ result }), enumerable: false });
  const file = code === null ? path.join('/work/src', entrypoint) : placed(code);
  process.argv = [process.argv[0], file];
  Module.runMain(path.resolve(file));
}

function takeIn(payload) {
  const end = payload.indexOf('\n') + 1;
  const taken = JSON.parse(payload.toString('utf8', 0, end));
  try {
    unpack(taken.files || [], payload.subarray(end));
  } catch (error) {
    refuse(error);
  }
  return taken;
}

function waitAndBecome() {
  fs.writeSync(STATUS, 'R');
  fs.closeSync(STATUS);
  const header = readExactly(GO, 8, null);
  if (header === null) process.exit(0);
  const taken = takeIn(readExactly(PAYLOAD, Number(header.readBigUInt64LE()), 0));
  fs.closeSync(GO);
  fs.closeSync(PAYLOAD);
  become(taken);
}

function giveUp(error) {
  fs.writeSync(STATUS, `E${error.message}`);
  process.exit(1);
}

const modules = process.argv.slice(2);
rehearse();
if (modules.length === 0) {
  waitAndBecome();
} else {
  // A program begins as the main one does, not amid the jobs of a promise, which run in another order.
  preload(modules).then(() => setImmediate(waitAndBecome), giveUp);
}
