// What is done ahead of a program: a rehearsal, and the modules of a template, which a build proves that can be loaded.
'use strict';
const Module = require('module');

const fromWork = Module.createRequire('/work/main.js');
// What says that a package cannot be had this way, rather than that it is broken (Node.js, "Errors").
const OTHER_WAY = new Set(['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE', 'ERR_PACKAGE_PATH_NOT_EXPORTED']);
const ONLY_REQUIRED = new Set(['ERR_MODULE_NOT_FOUND', 'ERR_UNSUPPORTED_DIR_IMPORT', 'ERR_PACKAGE_PATH_NOT_EXPORTED']);
const LASTING_MS = 1000;

// Both as CommonJS and as an ES module: a package may be one thing to `require` and another to `import`.
async function load(name) {
  let required = true;
  try {
    fromWork(name);
  } catch (error) {
    if (!OTHER_WAY.has(error && error.code)) throw error;
    required = false;
  }
  try {
    await import(name);
  } catch (error) {
    if (!required || !ONLY_REQUIRED.has(error && error.code)) throw error;
  }
}

// What a module prints as it is loaded is no program's output. The streams stay what they are: a module may keep them.
function hush(stream) {
  const own = stream.write;
  let quiet = true;
  stream.write = function write(...args) {
    if (!quiet) return own.apply(this, args);
    const done = args[args.length - 1];
    if (typeof done === 'function') process.nextTick(done);
    return true;
  };
  return () => {
    quiet = false;
    delete stream.write;
  };
}

// Print, so that what is made at the first line printed is there before anyone waits for it.
function rehearse() {
  const loud = [hush(process.stdout), hush(process.stderr)];
  console.log('', [{}]);
  console.error('');
  for (const speak of loud) speak();
}

async function preload(names) {
  const loud = [hush(process.stdout), hush(process.stderr)];
  try {
    for (const name of names) {
      try {
        await load(name);
      } catch (error) {
        throw new Error(`${name}: ${String(error).replace(/\nRequire stack:[^]*/, '')}`);
      }
    }
    await new Promise(setImmediate);
  } finally {
    for (const speak of loud) speak();
  }
}

// As `preload`; beside, nothing that was loaded may keep a program from ending.
async function prove(names) {
  await preload(names);
  await new Promise((ended, failed) => {
    const lasting = () => process.getActiveResourcesInfo().filter(name => name !== 'PipeWrap' && name !== 'TTYWrap');
    setTimeout(() => failed(new Error(`it keeps a program from ending: ${lasting().join(', ')}`)), LASTING_MS).unref();
    process.once('beforeExit', ended);
  });
}

module.exports = { rehearse, preload, prove };
