import assert from "node:assert/strict";
import { test } from "node:test";
import { late } from "../../../static/app/wait.js";

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
