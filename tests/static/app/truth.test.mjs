import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { lossAnnouncer, verdict, watch } from "../../../static/app/truth.js";

test("the chip is never live without a network or an answer", () => {
  for (const connection of ["connecting", "live", "polling", "reconnecting", "offline"]) {
    assert.equal(verdict({ connection, online: false }), "offline");
    for (const answer of ["slow", "none"]) assert.notEqual(verdict({ connection, online: true, answer }), "live");
  }
  assert.equal(verdict({ connection: "live", online: true }), "live");
  assert.equal(verdict({ connection: "live", online: true, answer: "slow" }), "checking");
  assert.equal(verdict({ connection: "offline", online: true }), "reconnecting");
  assert.equal(verdict({ connection: "finished", online: false, answer: "none" }), "finished");
});

test("each change of the connection is announced once, and a short one not at all", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const said = [];
  const tell = lossAnnouncer((words) => said.push(words));
  const after = (connection, milliseconds) => {
    tell(connection);
    mock.timers.tick(milliseconds);
  };
  after("connecting", 5000);
  after("live", 5000);
  after("checking", 5000);
  after("reconnecting", 400); // passes
  after("live", 5000);
  assert.deepEqual(said, []);
  after("offline", 5000);
  after("reconnecting", 5000); // still the same loss
  after("offline", 5000);
  assert.deepEqual(said, ["You are offline. The try-on goes on without you."]);
  after("live", 5000);
  after("polling", 5000);
  assert.deepEqual(said.slice(1), ["Connected again."]);
  mock.timers.reset();
});

/** A page whose clock and answers the test holds. */
function stage() {
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  const page = Object.assign(new EventTarget(), { navigator: { onLine: true }, document: { visibilityState: "visible" } });
  const heard = { said: [], chip: [], cuts: 0, asked: 0, answer: null, time: 0, listener: null, connection: null };
  const wire = {
    on: (fn) => ((heard.listener = fn), () => {}),
    mark: () => {},
    cut: () => (heard.cuts += 1),
    ask: () => ((heard.asked += 1), new Promise((resolve) => (heard.answer = resolve))),
  };
  const state = { connection: "live", session: { terminal: false } };
  const api = { state, say: (words) => heard.said.push(words), on: (_, fn) => (heard.connection = fn) };
  const truth = watch(api, { wire, onConnection: (word) => heard.chip.push(word), now: () => heard.time, page });
  const pass = async (milliseconds) => {
    for (let left = milliseconds; left > 0; left -= 500) {
      heard.time += 500;
      mock.timers.tick(500);
      await Promise.resolve();
    }
  };
  return { page, heard, state, truth, pass, end: () => (truth.close(), mock.timers.reset()) };
}

test("a silent connection is asked, and counts as lost without an answer", async () => {
  const { heard, truth, pass, end } = stage();
  await pass(4500);
  assert.equal(heard.asked, 0);
  await pass(1000);
  assert.equal(heard.asked, 1, "once");
  assert.equal(truth.verdict(), "live");
  await pass(1000);
  assert.equal(truth.verdict(), "checking");
  heard.answer(null); // 3 s later
  await pass(500);
  assert.deepEqual([truth.verdict(), heard.cuts], ["reconnecting", 1]);
  heard.listener({ way: "in" });
  assert.equal(truth.verdict(), "live");
  assert.deepEqual(heard.chip, ["live", "checking", "reconnecting", "live"]);
  end();
});

test("frames and answers keep a connection from being doubted", async () => {
  const { heard, truth, pass, end } = stage();
  for (let frames = 0; frames < 5; frames += 1) {
    await pass(4000);
    heard.listener({ way: "in" });
  }
  assert.equal(heard.asked, 0);
  await pass(6000);
  heard.answer({ took: 5, clock: null });
  await pass(500);
  assert.deepEqual([truth.verdict(), heard.cuts], ["live", 0]);
  end();
});

test("a device without a network says so at once", async () => {
  const { page, truth, end } = stage();
  page.navigator.onLine = false;
  page.dispatchEvent(new Event("offline"));
  assert.equal(truth.verdict(), "offline");
  page.navigator.onLine = true;
  page.dispatchEvent(new Event("online"));
  assert.equal(truth.verdict(), "live");
  end();
});

test("what has ended, or is not seen, is not asked", async () => {
  const { page, heard, state, pass, end } = stage();
  page.document.visibilityState = "hidden";
  await pass(10000);
  page.document.visibilityState = "visible";
  state.session.terminal = true;
  await pass(10000);
  assert.equal(heard.asked, 0);
  end();
});
