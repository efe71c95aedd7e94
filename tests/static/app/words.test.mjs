import assert from "node:assert/strict";
import { test } from "node:test";
import { trouble, words as endingWords } from "../../../static/app/troubles.js";
import { formatNames, fromNow, interruptedWords, ordinal, range, remaining, sessionHeadline } from "../../../static/app/words.js";

test("time left is said as people say it", () => {
  const words = {
    604800: "in 7 days",
    176400: "in 2 days 1 hour",
    169200: "in 47 hours",
    86400: "in 24 hours",
    86340: "in 23 hours 59 minutes",
    5400: "in 1 hour 30 minutes",
    3660: "in 1 hour 1 minute",
    3599: "in 1 hour",
    700: "in 12 minutes",
    260: "in 4 minutes 20 seconds",
    60: "in 1 minute",
    0.2: "in 1 second",
  };
  for (const [seconds, said] of Object.entries(words)) assert.equal(fromNow(seconds * 1000), said);
});

test("formats are said in words", () => {
  assert.equal(formatNames(["image/jpeg", "image/png", "image/webp", "image/heic"]), "JPEG, PNG, WebP or HEIC");
  assert.equal(formatNames(undefined), "photo");
});

test("the end is near only if the progress says so, too", () => {
  assert.equal(remaining(5.2, 0.08), "about 6 s left");
  assert.equal(remaining(0.4, 0.08), "");
  assert.equal(remaining(-2, 0.84), "");
  assert.equal(remaining(0.4, 0.9), "almost there");
  assert.equal(remaining(0.4, null), "almost there");
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
  const failed = (code, inputs) => ({ status: "failed", inputs, error: { code, message: "…", retryable: false } });
  const of = (code) => trouble({ state: { session: failed(code, inputs) } }).part;
  const refused = (code, part, photo) => endingWords({ refused: { code, status: 422, part, detail: "…" } }, photo);
  assert.equal(of("garment_not_found"), "garment");
  assert.equal(of("pose_not_supported"), "person");
  assert.equal(of("timeout"), null);
  assert.equal(trouble({ state: { session: failed("garment_not_found", []) } }).part, null);
  const state = { ending: { refused: { part: "image" } }, processor: { roles: [{ name: "model" }] } };
  assert.equal(trouble({ state }).part, "model", "an alias of the first role");
  assert.match(refused("unreadable_image", "garment").title, /garment/);
  assert.match(refused("unreadable_image", "person").title, /photo/);
  assert.match(refused("unreadable_image", "model", "model").title, /photo/);
});

test("a result that expires says so", () => {
  assert.equal(endingWords({ gone: "expired", ready: true }).title, "This result has expired");
  assert.equal(endingWords({ gone: "expired" }).title, "This try\u2011on has expired");
});

test("a refusal of a plan says which of its limits is reached", () => {
  const said = (limit) => endingWords({ refused: { code: "over_quota", status: 429, limit, detail: "by the server" } });
  assert.match(said("uploads_per_day").title, /today/);
  assert.match(said("concurrent_sessions").text, /at once/);
  assert.match(said("stored_bytes").text, /Delete/);
  for (const limit of ["uploads_per_day", "concurrent_sessions", "stored_bytes"]) assert.match(said(limit).text, /your plan/i);
  assert.equal(said("of a newer server").text, "by the server");
});
