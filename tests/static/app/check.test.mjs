import assert from "node:assert/strict";
import { test } from "node:test";
import { kindOf, limitsOf, names } from "../../../static/app/check.js";

const KINDS = {
  JPEG: "\xff\xd8\xff\xe0",
  PNG: "\x89PNG\r\n\x1a\n",
  WebP: "RIFF\0\0\0\0WEBPVP8 ",
  AVIF: "\0\0\0\x1cftypavif\0\0\0\0",
  HEIC: "\0\0\0\x18ftypheic\0\0\0\0",
  GIF: "GIF89a",
  BMP: "BM\0\0",
  TIFF: "II*\0",
  PDF: "%PDF-1.7",
  SVG: '<svg xmlns="">',
};

test("a picture is what its first bytes say, under any name", async () => {
  for (const [name, head] of Object.entries(KINDS)) {
    const bytes = Uint8Array.from(head, (character) => character.charCodeAt(0));
    assert.equal((await kindOf(new Blob([bytes], { type: "image/jpeg" }))).name, name);
  }
  assert.deepEqual(await kindOf(new Blob(["milk, eggs"])), { type: "", name: "" });
});

test("a role's own limits win where they are narrower", () => {
  const limits = { formats: ["image/jpeg", "image/png"], max_image_bytes: 15e6, max_pixels: 40e6, min_side: 64, max_side: 10000 };
  const role = { formats: [], max_bytes: 2e6, max_pixels: 50e6 };
  assert.deepEqual(limitsOf(role, limits), { formats: limits.formats, bytes: 2e6, pixels: 40e6, least: 64, side: 10000 });
  assert.deepEqual(limitsOf({ ...role, formats: ["image/png"] }, limits).formats, ["image/png"]);
  assert.equal(limitsOf(null, null).bytes, Infinity);
});

test("formats are said in words", () => {
  assert.equal(names(["image/jpeg", "image/png", "image/heic"]), "JPEG, PNG or HEIC");
});
