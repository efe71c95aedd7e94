import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { querySelectorAll: () => [] };
const { latency, span, story, summary } = await import("../../../static/app/behind.js");

const frame = (at, way, type, more = {}) => ({ at, way, via: "ws", type, seq: null, bytes: 0, text: "", body: null, ...more });
const snapshot = (at, seq, missed = []) => frame(at, "in", "snapshot", { seq, body: { missed } });
const connection = (at, text) => frame(at, "note", "connection", { text });

test("a recovery counts from the loss to the snapshot, with what was missed", () => {
  const lost = [snapshot(0, 1), frame(1000, "note", "close", { text: "cut" })];
  assert.deepEqual(story(lost), { seq: 1, lastIn: 0, lost: 1000, reconnects: 0, recovery: null });
  const back = story([...lost, connection(1001, "reconnecting"), snapshot(1400, 3, [{}, {}])]);
  assert.deepEqual(back, { seq: 3, lastIn: 1400, lost: null, reconnects: 1, recovery: { took: 400, missed: 2, via: "ws" } });
});

test("a page that polls has recovered too", () => {
  const told = story([snapshot(0, 1), connection(500, "reconnecting"), connection(900, "polling, poll")]);
  assert.deepEqual([told.lost, told.recovery], [null, { took: 400, missed: null, via: "poll" }]);
});

test("an answered poll is a sign of life", () => {
  const poll = frame(1200, "in", "poll", { via: "http", text: "304 after 9 ms" });
  assert.equal(story([snapshot(0, 1), poll]).lastIn, 1200);
  assert.equal(summary(poll), "poll: 304 after 9 ms");
});

test("the end of a session is no loss, nor is a connection that the page closes", () => {
  const bye = frame(10, "in", "bye", { body: { reconnect: false } });
  assert.equal(story([snapshot(0, 1), bye, frame(11, "note", "close", { text: "1000" })]).lost, null);
  assert.equal(story([snapshot(0, 1), frame(11, "note", "close", { text: "closed by the page" })]).lost, null);
  const drained = frame(10, "in", "bye", { body: { reconnect: true } });
  assert.equal(story([snapshot(0, 1), drained, frame(11, "note", "close", { text: "4002" })]).lost, 11);
});

test("latency is measured by the server's clock", () => {
  const event = frame(5000, "in", "event", { body: { at: "1970-01-01T00:00:08.000Z" } });
  assert.equal(latency(event, 3012), 12);
  assert.equal(latency(event, 2900), 0, "never negative");
  assert.equal(latency(event, null), null);
  assert.equal(latency({ ...event, way: "out" }, 0), null);
});

test("times and frames are said in a few words", () => {
  assert.deepEqual([0.2, 9.4, 430, 12000].map(span), ["under 1 ms", "9 ms", "0.4 s", "12 s"]);
  assert.equal(summary(frame(0, "in", "event", { seq: 3, body: { event: "completed" } })), "event 3: completed");
  assert.equal(summary(frame(0, "in", "progress", { body: { progress: 0.4, stage: "warping" } })), "progress 40 % warping");
  assert.equal(summary(frame(0, "in", "snapshot", { seq: 2, body: { session: { status: "created" }, missed: [{}] } })), "snapshot at 2: created, 1 missed");
  assert.equal(summary(frame(0, "note", "close", { text: "1006" })), "close: 1006");
  assert.equal(summary(frame(0, "out", "ping", { body: {} })), "ping");
});
