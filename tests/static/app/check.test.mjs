import assert from "node:assert/strict";
import { test } from "node:test";
import { excess, kindOf, limitsOf } from "../../../static/app/check.js";

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

test("the brands after the first one say which codec a general container has", async () => {
  const box = (...brands) => new Blob([Uint8Array.of(0, 0, 0, 8 + 4 * brands.length), "ftyp", ...brands, "\0\0\0\x08meta", "avif"]);
  assert.equal((await kindOf(box("mif1", "\0\0\0\0", "mif1", "avif", "miaf"))).type, "image/avif");
  assert.equal((await kindOf(box("msf1", "\0\0\0\0", "iso8", "avis"))).type, "image/avif");
  assert.equal((await kindOf(box("mif1", "\0\0\0\0", "mif1", "heic"))).type, "image/heic", "what follows the first box does not count");
  assert.equal((await kindOf(box("isom", "\0\0\0\0", "iso2", "mp41"))).type, "", "a video");
});

test("a role's own limits win where they are narrower", () => {
  const limits = { formats: ["image/jpeg", "image/png"], max_image_bytes: 15e6, max_pixels: 40e6, min_side: 64, max_side: 10000 };
  const role = { formats: [], max_bytes: 2e6, max_pixels: 50e6 };
  assert.deepEqual(limitsOf(role, limits), { formats: limits.formats, bytes: 2e6, pixels: 40e6, least: 64, side: 10000 });
  assert.deepEqual(limitsOf({ ...role, formats: ["image/png"] }, limits).formats, ["image/png"]);
  assert.equal(limitsOf(null, null).bytes, Infinity);
});

test("an upload is judged as a whole", () => {
  const limits = { max_body_bytes: 3e6, max_params_bytes: 20 };
  const files = [{ size: 2e6 }, { size: 1e6 }];
  assert.equal(excess(files, {}, limits), null);
  assert.equal(excess(files, {}, null), null, "the server judges");
  assert.equal(
    excess([...files, { size: 1.5e6 }], {}, limits).text,
    "They are 4.5 MB; at most 3 MB are taken at once. Please choose smaller ones.",
  );
  assert.equal(excess([], { text: "é".repeat(9) }, limits).title, "The options are too long");
});
