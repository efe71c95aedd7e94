import assert from "node:assert/strict";
import { test } from "node:test";
import { encode, path } from "../../../static/app/qr.js";

test("each version holds what the standard says, to the byte", () => {
  const bytes = { 1: 14, 2: 26, 5: 84, 9: 180, 10: 213, 20: 666, 40: 2331 };
  for (const [version, most] of Object.entries(bytes)) {
    assert.equal(encode("x".repeat(most)).length, 17 + 4 * version);
    if (version < 40) assert.equal(encode("x".repeat(most + 1)).length, 21 + 4 * version);
  }
});

test("a text that no code holds is refused", () => {
  assert.throws(() => encode("x".repeat(2332)), RangeError);
});

test("three corners have finders, and the fourth has none", () => {
  const rows = encode("https://example.org/");
  const ring = (x, y) => [0, 1, 2, 3, 4, 5, 6].every((at) => rows[y][x + at] && rows[y + at][x]);
  assert.deepEqual([ring(0, 0), ring(rows.length - 7, 0), ring(0, rows.length - 7)], [true, true, true]);
});

test("the drawing has a stroke for each run of dark modules", () => {
  assert.equal(path([[true, true, false, true]]), "M4 4h2v1h-2zM7 4h1v1h-1z");
});
