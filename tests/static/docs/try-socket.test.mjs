import assert from "node:assert/strict";
import { test } from "node:test";
import { trySocket } from "../../../static/docs/try-socket.js";

/** A form, as far as the module uses it. */
function form(values) {
  const heard = {};
  const control = (value = "") => ({ value, disabled: false, addEventListener() {} });
  const names = ["session", "credential", "since", "message", "connect", "start", "send", "close"];
  const elements = Object.fromEntries(names.map((name) => [name, control(values[name])]));
  const addEventListener = (name, act) => (heard[name] = act);
  return { elements, addEventListener, submit: () => heard.submit({ preventDefault() {} }) };
}

test("a credential that is no token is said, not thrown", () => {
  const made = [];
  globalThis.location = { href: "https://tryon.example/api/docs" };
  globalThis.WebSocket = class {
    static OPEN = 1;

    constructor(url, protocols) {
      made.push([`${url}`, protocols.length]);
    }

    close() {}
  };
  const status = {};
  const token = "a".repeat(22);
  const root = form({ session: "id", credential: "two words of a token that is long enough" });
  trySocket({ root, status, log: { replaceChildren() {} }, address: "/api/tryon/sessions/{session_id}/ws" });
  root.submit();
  assert.match(status.textContent, /^That is no token/);
  assert.deepEqual([made, root.elements.close.disabled], [[], true]);
  root.elements.credential.value = token;
  root.submit();
  assert.equal(status.textContent, "Connecting…");
  root.elements.credential.value = "ticket.signed";
  root.submit();
  const url = "wss://tryon.example/api/tryon/sessions/id/ws";
  assert.deepEqual(made, [[url, 2], [`${url}?ticket=ticket.signed`, 1]]);
});
