import assert from "node:assert/strict";
import { test } from "node:test";
import { TryOn } from "../../../static/tryon.js";

test("an upload that is aborted while its module is loaded sends nothing", async () => {
  const sent = [];
  globalThis.XMLHttpRequest = class {
    upload = {};
    open() {}
    setRequestHeader() {}
    abort() {}
    send(body) {
      sent.push(body);
    }
  };
  const stop = new AbortController();
  const upload = new TryOn({ base: "http://x" }).upload(new Blob(["x"]), { signal: stop.signal, onProgress: () => {} });
  stop.abort(); // the import is under way
  await assert.rejects(upload, { name: "AbortError" });
  assert.deepEqual(sent, []);
});
