import assert from "node:assert/strict";
import { test } from "node:test";
import { decide } from "../../../static/app/photos.js";

const file = (name, type, folder = false) => ({ file: { name, type }, folder });
const nothing = { files: [], links: [], pictures: [] };
const decided = (held) => decide({ ...nothing, ...held }, "https://x", "JPEG or AVIF");

test("a refusal names what this server takes", () => {
  assert.equal(decided({ files: [file("a.txt", "text/plain")] }).words, "“a.txt” is not a picture. Please choose a JPEG or AVIF.");
});

test("pictures win over folders, and a file without a type may be one", () => {
  const [picture, unknown] = [file("a.jpg", "image/jpeg"), file("b", "")];
  assert.deepEqual(decided({ files: [file("c", "", true), picture, unknown] }).files, [picture.file, unknown.file]);
  assert.match(decided({ files: [file("c", "", true)] }).words, /folder/);
});

test("a picture of this page is taken by its address, and of another page by words", () => {
  assert.deepEqual(decided({ pictures: ["https://x/a.jpg"] }), { url: "https://x/a.jpg" });
  assert.match(decided({ pictures: ["https://y/a.jpg"] }).words, /another page/);
  assert.equal(decided({}), null);
});
