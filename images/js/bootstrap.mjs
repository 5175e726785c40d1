/*
 * Serves a function's handler in Node, Deno and Bun: requests come line by line on stdin, answers
 * leave on descriptor 3.
 *
 * Run as `init --handler node bootstrap.mjs FILE`; in Deno, preloaded for a main module FILE. Init has made descriptor 1 the container's
 * stderr, so whatever the function prints, by console.log or otherwise, goes to the logs.
 */
import { Buffer } from "node:buffer";
import { openSync, readdirSync, rmSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";

// Deno numbers files in its own way; there, the descriptor is reached by its name.
const PROTOCOL = globalThis.Deno ? openSync("/dev/fd/3", "w") : 3;

// While it is, nothing that is sent goes anywhere: see `rehearse`.
let rehearsing = false;

/** Write one message to the sandbox. */
function send(message) {
  let bytes = Buffer.from(JSON.stringify(message) + "\n");
  while (bytes.length > 0) bytes = bytes.subarray(rehearsing ? bytes.length : writeSync(PROTOCOL, bytes));
}

const log = Object.fromEntries(
  ["debug", "info", "warn", "error"].map((level) => [
    level,
    (message, data) =>
      send({
        type: "log",
        level,
        message: String(message),
        data: asObject(data),
        timestamp: new Date().toISOString(),
      }),
  ]),
);

/** `value` as a JSON object, with text in the place of what is not JSON; nothing is null. */
function asObject(value) {
  if (value === undefined || value === null) return null;
  let plain;
  try {
    plain = JSON.parse(JSON.stringify(value) ?? "null");
  } catch {
    plain = String(value);
  }
  return plain !== null && typeof plain === "object" && !Array.isArray(plain)
    ? plain
    : { value: plain };
}

// Taken at the start: making these streams is slow.
const printed = [process.stdout, process.stderr];

/** Wait until what the function printed has left: pipes are written behind its back. */
async function flush() {
  for (const stream of printed) {
    if (stream.writableLength > 0) await new Promise((done) => stream.write("", done));
  }
}

/** Remove what an earlier request left in files: these are all that a function can write to. */
function wipe() {
  for (const directory of ["/tmp", "/dev/shm"]) {
    for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true, force: true });
  }
}

/** The handler that a module exports, as a function of (input, ctx). */
function findHandler(module, file) {
  // `default` of a CommonJS module is its `module.exports`.
  for (const holder of [{ handler: module.default }, module.default, module, module.default?.default]) {
    const handler = typeof holder === "function" ? undefined : holder?.handler;
    if (typeof handler !== "function") continue;
    return handler.length >= 2
      ? (input, ctx) => handler.call(holder, input, ctx)
      : (_, ctx) => handler.call(holder, ctx);
  }
  throw new Error(`${basename(file)} exports no handler: export default function handler(ctx) {…}`);
}

/** The contract's error document for whatever was thrown; its stack goes to the logs. */
function describe(thrown) {
  console.error(thrown);
  if (thrown === null || typeof thrown !== "object") thrown = { message: String(thrown) };
  const { code, message, details, stack: _stack, ...fields } = { ...thrown, message: thrown.message };
  const named = typeof code === "string" && code !== "";
  if (!named && code !== undefined) fields.code = code;
  return {
    code: named ? code : "FUNCTION_ERROR",
    message: String(message || thrown.name || "the handler failed"),
    details: asObject({ ...fields, ...asObject(details) }),
  };
}

// The first request is charged for the start too.
let charged = 0;

/** What the process used since the last answer. */
function usage() {
  const { user, system } = process.cpuUsage();
  const used = (user + system) / 1000;
  const cpu_ms = Math.round((used - charged) * 1000) / 1000;
  charged = used;
  return { cpu_ms, peak_memory_bytes: process.resourceUsage().maxRSS * 1024 };
}

// Ends the request under way with an error that no `await` of the handler's caught.
let interrupt;

async function serve(handler, request) {
  const { auth = null, env = {}, alyx_url = "", internal_token = "" } = request.context ?? {};
  const { request_id, function: name, input = {} } = request;
  const ctx = { input, auth, env, request_id, function: name, alyx_url, internal_token, log };
  const interrupted = new Promise((_, reject) => (interrupt = reject));
  let outcome;
  try {
    const output = await Promise.race([handler(input, ctx), interrupted]);
    outcome = { success: true, output: output ?? null };
  } catch (thrown) {
    outcome = { success: false, error: describe(thrown) };
  }
  interrupt = undefined;
  await flush();
  const response = { type: "response", request_id, usage: usage() };
  try {
    send({ ...response, ...outcome });
  } catch (error) {
    const message = `what the handler returned is not JSON: ${error.message}`;
    const failure = { code: "FUNCTION_ERROR", message, details: {} };
    send({ ...response, success: false, error: failure });
  }
}

/**
 * Serve a request that nobody sent. The first one runs through code that has never run, which takes
 * milliseconds: they belong to the start, when nobody waits.
 */
async function rehearse() {
  rehearsing = true;
  await serve((input) => input, JSON.parse('{"request_id": "", "function": "", "input": {}, "context": {}}'));
  rehearsing = false;
  charged = 0;
}

async function main(file) {
  let handler;
  try {
    handler = findHandler(await import(pathToFileURL(file).href), file);
  } catch (thrown) {
    send({ type: "init_error", error: describe(thrown) });
    await flush();
    process.exit(1);
  }
  await rehearse();
  send({ type: "ready" });
  // By events: the first chunk of an asynchronous iterator takes a millisecond more.
  let rest = "";
  let served = 0;
  let last = Promise.resolve();
  const next = async (line) => {
    if (served++ > 0) wipe();
    await serve(handler, JSON.parse(line));
  };
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (chunk) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) last = last.then(() => next(line));
  });
  process.stdin.on("end", async () => {
    if (rest) last = last.then(() => next(rest));
    await last;
    await flush();
    process.exit(0);
  });
}

for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (thrown) => {
    if (interrupt) return interrupt(thrown);
    console.error(thrown);
    flush().then(() => process.exit(1));
  });
}
// Nothing is left that could ever settle the handler's promise; but Bun comes here before it tells
// of a rejection, so that goes first.
process.on("beforeExit", () => {
  const stuck = new Error("the handler's promise was never settled");
  if (interrupt) setTimeout(() => interrupt?.(stuck));
});

main(process.argv[2]);
