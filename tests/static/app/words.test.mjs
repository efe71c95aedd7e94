import assert from "node:assert/strict";
import { test } from "node:test";
import { failure, partOf } from "../../../static/app/errors.js";
import { fromNow, goneWords, interruptedWords, ordinal, problemWords, range, sessionHeadline } from "../../../static/app/words.js";

test("time left is said as people say it", () => {
  const words = {
    86400: "in 24 hours",
    86340: "in 23 hours 59 minutes",
    3660: "in 1 hour 1 minute",
    3599: "in 1 hour",
    700: "in 12 minutes",
    260: "in 4 minutes 20 seconds",
    60: "in 1 minute",
    0.2: "in 1 second",
  };
  for (const [seconds, said] of Object.entries(words)) assert.equal(fromNow(seconds * 1000), said);
});

test("a place in line has its ending", () => {
  assert.deepEqual([2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(ordinal), ["2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]);
});

test("the wait is a range of one run", () => {
  assert.equal(range(10, 4), "10–14 s");
  assert.equal(range(0.4, 0.5), "1–2 s");
  assert.equal(range(150, 60), "2–4 min");
});

test("an interruption says which attempt follows", () => {
  const limits = { max_attempts: 3 };
  assert.equal(interruptedWords({ status: "created", attempt: 1 }, limits), "Interrupted, starting again (2 of 3)");
  assert.equal(interruptedWords({ status: "processing", attempt: 2 }, limits), "Interrupted, starting again (2 of 3)");
  assert.equal(interruptedWords({ status: "created", attempt: 1 }, null), "Interrupted, starting again");
  assert.match(sessionHeadline({ status: "created", attempt: 1 }), /^Interrupted/);
});

test("an error names the part that is meant", () => {
  const inputs = [{ role: "person" }, { role: "garment" }];
  const of = (code) => failure({ inputs, error: { code, message: "…", retryable: false } }).part;
  assert.equal(of("garment_not_found"), "garment");
  assert.equal(of("pose_not_supported"), "person");
  assert.equal(of("timeout"), null);
  assert.equal(failure({ inputs: [], error: { code: "garment_not_found" } }).part, null);
  assert.equal(partOf("image", [{ name: "model" }]), "model");
  assert.match(problemWords({ code: "unreadable_image", status: 422, part: "garment", detail: "…" }).title, /garment/);
  assert.match(problemWords({ code: "unreadable_image", status: 422, part: "person", detail: "…" }).title, /photo/);
  assert.match(problemWords({ code: "unreadable_image", status: 422, part: "model", detail: "…" }, "model").title, /photo/);
});

test("a result that expires says so", () => {
  assert.equal(goneWords("expired", true).title, "This result has expired");
  assert.equal(goneWords("expired").title, "This try\u2011on has expired");
});
