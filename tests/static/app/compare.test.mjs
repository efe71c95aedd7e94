import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.document = { querySelectorAll: () => [] };
const { fraction, panned, zoomed } = await import("../../../static/app/compare.js");

const SIZE = { width: 400, height: 300 };
const NEUTRAL = { zoom: 1, x: 0, y: 0 };

test("zooming keeps the point under the finger", () => {
  const at = { x: 100, y: 200 };
  const view = zoomed(NEUTRAL, 2, at, SIZE);
  assert.deepEqual(view, { zoom: 2, x: -100, y: -200 });
  const shown = ({ zoom, x, y }) => ({ x: (at.x - x) / zoom, y: (at.y - y) / zoom });
  assert.deepEqual(shown(zoomed(view, 1.5, at, SIZE)), at);
});

test("zoom ends at the whole picture and at four times", () => {
  assert.deepEqual(zoomed({ zoom: 2, x: -300, y: -10 }, 0.1, { x: 5, y: 5 }, SIZE), NEUTRAL);
  assert.equal(zoomed(NEUTRAL, 100, { x: 0, y: 0 }, SIZE).zoom, 4);
});

test("no edge of the picture comes into the frame", () => {
  assert.deepEqual(panned({ zoom: 2, x: 0, y: 0 }, 50, 50, SIZE), { zoom: 2, x: 0, y: 0 });
  assert.deepEqual(panned({ zoom: 2, x: 0, y: 0 }, -5000, -5000, SIZE), { zoom: 2, x: -400, y: -300 });
  assert.deepEqual(panned(NEUTRAL, -50, 20, SIZE), NEUTRAL);
});

test("the line stays in the frame", () => {
  const frame = { left: 50, width: 200 };
  assert.deepEqual([0, 50, 100, 250, 999].map((x) => fraction(x, frame)), [0, 0, 0.25, 1, 1]);
  assert.equal(fraction(10, { left: 0, width: 0 }), 0.5, "a frame that is not laid out yet");
});
