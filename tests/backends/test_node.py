"""Node in a sandbox: what its results may be, and that ordinary programs run as they do on an ordinary machine."""

import pytest

from tests.backends.running import RunProgram

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.node]

CARRIED = [
    ("undefined", b"null"),
    ("({a: undefined, b: [1.5, -0, null], c: 'ä\\u0000'})", '{"b":[1.5,0,null],"c":"ä\\u0000"}'.encode()),
    ("new Date(0)", b'"1970-01-01T00:00:00.000Z"'),
    ("(BigInt.prototype.toJSON = () => 1, 1n)", b"1"),
]
REFUSED = [
    ("NaN", "RangeError: the result is not JSON: NaN is no number there"),
    ("[1, {a: -Infinity}]", "RangeError: the result is not JSON: -Infinity is no number there"),
    ("new Map([]).set(1, 1).size / 0", "RangeError: the result is not JSON: Infinity is no number there"),
    ("new Number(NaN)", "RangeError: the result is not JSON: NaN is no number there"),
    ("() => 1", "TypeError: the result is not JSON: it is a function"),
    ("Symbol()", "TypeError: the result is not JSON: it is a symbol"),
    ("[1n]", "TypeError: the result is not JSON: it has a BigInt in it"),
    ("(() => { const a = []; a[0] = {a}; return a; })()", "TypeError: the result is not JSON: it has itself in it"),
    ("({toJSON() { throw new Error('own'); }})", "Error: own"),
    ("'x'.repeat(1 << 20)", "RangeError: the result is 1048578 bytes of JSON; at most 1048576 are taken"),
]


@pytest.mark.parametrize(("value", "json"), CARRIED, ids=[value for value, _ in CARRIED])
async def test_a_value_comes_as_json_has_it(run: RunProgram, value: str, json: bytes) -> None:
    assert (await run(f"enclave.result({value})", language="node")).exit.value == json


@pytest.mark.parametrize(("value", "why"), REFUSED, ids=[value for value, _ in REFUSED])
async def test_a_value_that_json_would_change_is_refused_in_one_line(run: RunProgram, value: str, why: str) -> None:
    code = f"try {{ enclave.result({value}); }} catch (error) {{ console.log(String(error)); }}"

    done = await run(code, language="node")

    assert (done.stdout.decode(), done.exit.value) == (f"{why}\n", None)


ORDINARY = {
    "a server and its client": """
const server = http.createServer((request, answer) => answer.end('hello ' + request.url));
server.listen(0, '127.0.0.1', () => http.get({port: server.address().port, path: '/x'}, async answer => {
  let text = '';
  for await (const chunk of answer) text += chunk;
  assert.equal(text, 'hello /x');
  server.close(done);
}));
""",
    "fetch": """
const server = http.createServer((request, answer) => answer.end('{"a": 1}')).listen(0, 'localhost', async () => {
  assert.deepEqual(await (await fetch(`http://localhost:${server.address().port}`)).json(), {a: 1});
  server.close(done);
  server.closeAllConnections();
});
""",
    "a unix socket": """
const server = net.createServer(peer => peer.end('hi')).listen('/tmp/socket', () => {
  net.connect('/tmp/socket').setEncoding('utf8').on('data', text => { assert.equal(text, 'hi'); server.close(done); });
});
""",
    "datagrams": """
const socket = require('dgram').createSocket('udp4');
socket.bind(0, '127.0.0.1', () => socket.send('x', socket.address().port));
socket.on('message', text => { assert.equal(String(text), 'x'); socket.close(done); });
""",
    "worker threads": """
const {Worker} = require('worker_threads');
const shared = new Int32Array(new SharedArrayBuffer(4));
const code = 'const {workerData, parentPort} = require("worker_threads"); Atomics.add(workerData, 0, 1);'
  + 'Atomics.notify(workerData, 0); parentPort.postMessage(6 * 7)';
let left = 3;
const over = () => { if (!--left) { assert.equal(shared[0], 3); done(); } };
for (let i = 0; i < 3; i++) new Worker(code, {eval: true, workerData: shared})
  .on('message', value => assert.equal(value, 42)).on('exit', over);
""",
    "child processes": """
const {spawn, exec, execFileSync, spawnSync} = require('child_process');
assert.equal(execFileSync('/bin/echo', ['hi']) + '', 'hi\\n');
assert.equal(spawnSync(process.execPath, ['-p', '6 * 7']).stdout + '', '42\\n');
exec('echo out; echo err >&2; exit 3', (error, out, err) => {
  assert.deepEqual([error.code, out, err], [3, 'out\\n', 'err\\n']);
  const cat = spawn('cat');
  cat.stdout.once('data', text => { assert.equal(String(text), 'piped'); cat.kill('SIGTERM'); });
  cat.on('exit', (code, signal) => { assert.equal(signal, 'SIGTERM'); done(); });
  cat.stdin.write('piped');
});
""",
    "fork": """
if (process.argv[2] === 'child') process.on('message', value => process.send(value * 2, () => process.exit()));
else require('child_process').fork(__filename, ['child'], {stdio: 'pipe'}).on('message', value => {
  assert.equal(value, 42);
  done();
}).send(21);
""",
    "a cluster": """
const cluster = require('cluster');
if (cluster.isPrimary) cluster.fork().on('listening', (address) => http.get({port: address.port}, answer => {
  answer.resume().on('end', () => { for (const id in cluster.workers) cluster.workers[id].kill(); done(); });
})); else http.createServer((request, answer) => answer.end('x')).listen(0, '127.0.0.1', done);
""",
    "files": """
(async () => {
  const {promises, constants} = fs;
  await promises.mkdir('a/b', {recursive: true});
  await promises.writeFile('a/b/c', 'text');
  await promises.appendFile('a/b/c', ' more');
  await promises.copyFile('a/b/c', 'copy', constants.COPYFILE_FICLONE);
  await promises.symlink('copy', 'link');
  await promises.rename('copy', 'moved'); await promises.rename('moved', 'copy');
  await promises.utimes('copy', 1, 2); await promises.chmod('copy', 0o600);
  assert.equal(await promises.readFile('link', 'utf8'), 'text more');
  assert.equal((await promises.stat('copy')).mtimeMs, 2000);
  assert.deepEqual((await promises.readdir('.', {recursive: true})).includes('a/b/c'), true);
  await promises.cp('a', 'd', {recursive: true});
  await promises.rm('a', {recursive: true});
  await promises.mkdtemp('/tmp/x-');
  done();
})();
""",
    "streams": """
const {pipeline} = require('stream/promises'), zlib = require('zlib');
(async () => {
  fs.writeFileSync('plain', 'line\\n'.repeat(100000));
  await pipeline(fs.createReadStream('plain'), zlib.createGzip(), fs.createWriteStream('packed'));
  await pipeline(fs.createReadStream('packed'), zlib.createGunzip(), fs.createWriteStream('again'));
  assert(fs.readFileSync('plain').equals(fs.readFileSync('again')));
  assert.equal(zlib.brotliDecompressSync(zlib.brotliCompressSync('x')) + '', 'x');
  done();
})();
""",
    "cryptography": """
const crypto = require('crypto');
assert.equal(crypto.createHash('sha256').update('').digest('hex').slice(0, 8), 'e3b0c442');
crypto.scrypt('secret', 'salt', 32, async (error, key) => {
  assert.ifError(error);
  const how = {name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256'}, data = Buffer.from('x');
  const pair = await crypto.webcrypto.subtle.generateKey(how, true, ['sign', 'verify']);
  const signature = await crypto.webcrypto.subtle.sign(how, pair.privateKey, data);
  assert(await crypto.webcrypto.subtle.verify(how, pair.publicKey, signature, data));
  crypto.generateKeyPairSync('ed25519');
  done();
});
""",
    "timers": """
const {setTimeout: sleep} = require('timers/promises');
(async () => { assert.equal(await sleep(5, 'x'), 'x'); let n = 0; const t = setInterval(() => ++n === 3 && end(), 1);
  function end() { clearInterval(t); setImmediate(done); } })();
""",
    "async context": """
const {AsyncLocalStorage, createHook} = require('async_hooks'), {performance} = require('perf_hooks');
let made = 0; createHook({init: () => made++}).enable();
const local = new AsyncLocalStorage();
const later = () => { assert.equal(local.getStore(), 'x'); assert(made && performance.now()); done(); };
local.run('x', () => setTimeout(later));
""",
    "WebAssembly": """
const bytes = Buffer.from('0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b', 'hex');
WebAssembly.instantiate(bytes).then(({instance}) => { assert.equal(instance.exports.add(40, 2), 42); done(); });
""",
    "Intl": """
assert.equal(new Intl.NumberFormat('de-DE').format(1234.5), '1.234,5');
assert.equal(new Date(0).toLocaleString('en-GB', {timeZone: 'Asia/Tokyo'}), '01/01/1970, 09:00:00');
done();
""",
    "what the machine is": """
const os = require('os');
assert(process.memoryUsage().rss > 0 && process.memoryUsage.rss() && process.cpuUsage() && process.resourceUsage());
assert(os.cpus().length > 0 && os.totalmem() > 0 && os.loadavg().length === 3 && os.availableParallelism() > 0);
assert.deepEqual([os.userInfo().username, os.hostname(), os.homedir(), os.tmpdir()],
  ['sandbox', 'sandbox', '/work', '/tmp']);
os.setPriority(5); assert.equal(os.getPriority(), 5);
done();
""",
    "names": """
const dns = require('dns');
dns.lookup('localhost', (error, address) => {
  assert(['127.0.0.1', '::1'].includes(address), error);
  dns.lookup('nowhere.example', error => { assert(['EAI_AGAIN', 'ENOTFOUND'].includes(error.code)); done(); });
});
""",
    "signals": """
process.on('SIGUSR2', () => { assert.equal(process.kill(process.pid, 0), true); clearTimeout(waiting); done(); });
const waiting = setTimeout(() => {}, 60000);
process.kill(process.pid, 'SIGUSR2');
""",
    "lines": """
require('readline').createInterface({input: require('stream').Readable.from(['a\\nb\\n'])})
  .on('line', line => seen.push(line)).on('close', () => { assert.deepEqual(seen, ['a', 'b']); done(); });
const seen = [];
""",
    "its own tests": """
require('node:test')('a test', async t => { await t.test('inner', () => {}); done(); });
""",
}
PRELUDE = "const assert = require('assert'), fs = require('fs'), http = require('http'), net = require('net');"
ENDED = (
    "let ended = 0; const done = () => { ended = 1; }; process.on('exit', () => { if (!ended) process.exitCode = 9; });"
)
MODULE = """
import {readFile} from 'node:fs/promises';
import {createRequire} from 'module';
const text = await readFile(new URL(import.meta.url), 'utf8');
const {default: path} = await import('path');
console.log(text.length > 9, path.basename(import.meta.filename), createRequire(import.meta.url)('os').EOL === '\\n');
"""


@pytest.mark.parametrize("name", ORDINARY)
async def test_ordinary_programs_work(run: RunProgram, name: str) -> None:
    done = await run(f"{PRELUDE}\n{ENDED}\n{ORDINARY[name]}", language="node")

    assert (done.exit.code, done.exit.kill_reason, done.stderr) == (0, None, b"")


async def test_a_module_has_all_that_modules_have(run: RunProgram) -> None:
    done = await run(MODULE, language="node")

    assert (done.stdout, done.stderr) == (b"true main.mjs true\n", b"")
