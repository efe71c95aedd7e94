import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { querySelectorAll: () => [] };
const { snippets } = await import("../../../static/app/code.js");

const session = { session_id: "0199", status: "processing", links: { output: null } };

test("the owner's lines have the token once, in a variable or a constructor", () => {
  for (const lines of Object.values(snippets({ base: "https://x", session, token: "SECRET" }))) {
    assert.equal(lines.split("SECRET").length, 2);
    assert.ok(lines.includes("0199") && lines.endsWith("\n"));
  }
});

test("the lines for a browser work in its console, which takes no import statement", () => {
  const { JavaScript } = snippets({ base: "https://x", session, token: "T" });
  assert.ok(JavaScript.includes('await import("https://x/static/tryon.js")') && !/^import /m.test(JavaScript));
});

test("a session made elsewhere is looked at with its ticket alone", () => {
  for (const lines of Object.values(snippets({ base: "https://x", session, ticket: "TICKET" }))) {
    assert.ok(lines.includes("TICKET"));
    assert.ok(!/TOKEN|token|Bearer|null/.test(lines), lines);
  }
});

test("a result has a line of its own once it is there", () => {
  const completed = { ...session, status: "completed", links: { output: "/files/a.jpg?sig=1" } };
  assert.ok(snippets({ base: "https://x", session: completed, token: "T" }).curl.includes("curl -o result.jpg 'https://x/files/a.jpg?sig=1'"));
  assert.ok(!snippets({ base: "https://x", session, token: "T" }).curl.includes("-o result"));
});
