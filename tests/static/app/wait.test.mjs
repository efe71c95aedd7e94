import assert from "node:assert/strict";
import { test } from "node:test";
import { clock } from "../../../static/app/dom.js";
import { againWords, late, timeWords } from "../../../static/app/wait.js";

const session = { session_id: "a", status: "processing", attempt: 1, eta_seconds: 4 };

test("a session is late by what was expected at first, not by the estimate of the moment", () => {
  assert.equal(late(session, null, 0), false);
  assert.equal(late({ ...session, eta_seconds: 90 }, null, 8900), false);
  assert.equal(late({ ...session, eta_seconds: 90 }, null, 9100), true);
});

test("the next attempt is expected anew", () => {
  assert.equal(late(session, null, 0), false);
  assert.equal(late(session, null, 20000), true);
  assert.equal(late({ ...session, attempt: 2 }, null, 20000), false);
});

test("without an estimate the processor's own time counts, else a minute", () => {
  const silent = { ...session, session_id: "b", eta_seconds: null };
  assert.equal(late(silent, { typical_seconds: 2 }, 0), false);
  assert.equal(late(silent, { typical_seconds: 2 }, 7100), true);
  assert.equal(late({ ...silent, session_id: "c" }, null, 0), false);
  assert.equal(late({ ...silent, session_id: "c" }, null, 60000), false);
  assert.equal(late({ ...silent, session_id: "c" }, null, 90100), true);
});

test("a time left is not counted down when the progress has stopped for three seconds", () => {
  const running = { session_id: "d", status: "processing", attempt: 1, eta_seconds: 20, progress: 0.3, created_at: "2026-01-01T00:00:00Z" };
  const said = (ago) => timeWords({ state: { phase: "following", session: running, online: true, heardAt: { clock: clock() - ago } } });
  assert.equal(said(0), "about 20 s left");
  assert.equal(said(2100), "about 18 s left");
  assert.equal(said(3000), "about 17 s left");
  assert.equal(said(15000), "about 17 s left");
});

test("a short wait is counted down, a long one is a time of day", () => {
  const now = Date.parse("2026-11-27T13:00:00");
  assert.equal(againWords(99, now), "Try again in 99 s");
  assert.equal(againWords(600, now), "Try again today at 13:10");
  assert.equal(againWords(39600, now), "Try again tomorrow at 00:00");
});
