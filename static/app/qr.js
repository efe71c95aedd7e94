/**
 * QR codes of links: `encode(text)` gives the modules, `mount(root)` draws them.
 *
 * Byte mode, error correction level M, versions 1 to 40 (ISO/IEC 18004): up to 2,331 bytes. Every code has the mask with the
 * lowest penalty, as the standard wants. Nothing is sent anywhere: a share link stays on the page.
 */

// Level M by version, from 1 on: bytes of error correction in a block, and blocks.
const EC_BYTES = [
  10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26, 26, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28,
  28, 28, 28, 28, 28, 28, 28,
];
const BLOCKS = [
  1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16, 17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 35, 37, 38, 40, 43,
  45, 47, 49,
];
const QUIET = 4; // modules of light around a code
const MASKS = [
  (x, y) => (x + y) % 2 === 0,
  (x, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

/** Returns rows of booleans, true for dark. Throws a RangeError for a text that no code holds. */
export function encode(text) {
  const bytes = new TextEncoder().encode(text);
  const version = EC_BYTES.findIndex((_, at) => 12 + (at >= 9 ? 8 : 0) + 8 * bytes.length <= 8 * dataBytes(at + 1)) + 1;
  if (version === 0) throw new RangeError("too long for a QR code");
  const grid = new Grid(version);
  grid.place(interleaved(bits(bytes, version), version));
  return grid.masked();
}

/** Shows codes in `root`: `show(link)` draws one, `clear()` removes it. */
export function mount(root) {
  const clear = () => root.replaceChildren();
  const show = (link, label = "QR code of the link") => {
    const modules = encode(link);
    const side = modules.length + 2 * QUIET;
    const svg = element("svg", { viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": label, class: "qr-code" });
    const paper = { fill: "#fff", stroke: "none", d: `M0 0h${side}v${side}H0z` }; // light in dark colours too
    const ink = { fill: "#000", stroke: "none", d: path(modules) };
    svg.append(element("path", paper), element("path", ink));
    root.replaceChildren(svg);
  };
  return { show, clear };
}

/** The dark modules as one path, a stroke for each run in a row. */
export function path(modules) {
  let drawn = "";
  modules.forEach((row, y) => {
    for (let x = 0; x < row.length; x += 1) {
      if (!row[x]) continue;
      const first = x;
      while (row[x + 1]) x += 1;
      drawn += `M${first + QUIET} ${y + QUIET}h${x + 1 - first}v1h${first - x - 1}z`;
    }
  });
  return drawn;
}

function element(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// --- data and error correction ------------------------------------------------------------------------------------------

/** Modules that are neither pattern nor format: bits of data, of error correction, and a few that are left over. */
function rawBits(version) {
  let bits = (16 * version + 128) * version + 64;
  if (version >= 2) {
    const lines = Math.floor(version / 7) + 2;
    bits -= (25 * lines - 10) * lines - 55;
    if (version >= 7) bits -= 36;
  }
  return bits;
}

function dataBytes(version) {
  return Math.floor(rawBits(version) / 8) - EC_BYTES[version - 1] * BLOCKS[version - 1];
}

/** The message as bytes: mode, length, text, and padding up to what the version holds. */
function bits(bytes, version) {
  const out = [];
  const add = (value, length) => {
    for (let at = length - 1; at >= 0; at -= 1) out.push((value >>> at) & 1);
  };
  add(4, 4);
  add(bytes.length, version < 10 ? 8 : 16);
  for (const byte of bytes) add(byte, 8);
  const room = 8 * dataBytes(version);
  add(0, Math.min(4, room - out.length));
  add(0, (8 - (out.length % 8)) % 8);
  for (let pad = 0xec; out.length < room; pad ^= 0xec ^ 0x11) add(pad, 8);
  return Array.from({ length: room / 8 }, (_, at) => Number.parseInt(out.slice(8 * at, 8 * at + 8).join(""), 2));
}

/** Data and error correction, block by block, in the order in which they are placed. */
function interleaved(data, version) {
  const count = BLOCKS[version - 1];
  const correction = EC_BYTES[version - 1];
  const total = Math.floor(rawBits(version) / 8);
  const short = count - (total % count); // the blocks after these are a byte longer
  const size = Math.floor(total / count) - correction;
  const divisor = generator(correction);
  const blocks = [];
  for (let at = 0, from = 0; at < count; at += 1) {
    const part = data.slice(from, (from += size + (at < short ? 0 : 1)));
    blocks.push({ part, check: remainder(part, divisor) });
  }
  const out = [];
  for (let at = 0; at <= size; at += 1) for (const { part } of blocks) if (at < part.length) out.push(part[at]);
  for (let at = 0; at < correction; at += 1) for (const { check } of blocks) out.push(check[at]);
  return out;
}

/** The product in GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1. */
function times(a, b) {
  let product = 0;
  for (let at = 7; at >= 0; at -= 1) {
    product = (product << 1) ^ ((product >>> 7) * 0x11d);
    product ^= ((b >>> at) & 1) * a;
  }
  return product;
}

function generator(degree) {
  const factors = [...new Array(degree - 1).fill(0), 1];
  for (let at = 0, root = 1; at < degree; at += 1, root = times(root, 2)) {
    for (let i = 0; i < degree; i += 1) factors[i] = times(factors[i], root) ^ (factors[i + 1] ?? 0);
  }
  return factors;
}

function remainder(data, divisor) {
  const left = new Array(divisor.length).fill(0);
  for (const byte of data) {
    const factor = byte ^ left.shift();
    left.push(0);
    divisor.forEach((each, at) => (left[at] ^= times(each, factor)));
  }
  return left;
}

// --- the square ---------------------------------------------------------------------------------------------------------

class Grid {
  constructor(version) {
    this.version = version;
    this.size = 17 + 4 * version;
    this.dark = Array.from({ length: this.size }, () => new Array(this.size).fill(false));
    this.taken = Array.from({ length: this.size }, () => new Array(this.size).fill(false)); // patterns: never masked
    this.#patterns();
  }

  /** Puts the bits into the free modules: upwards and downwards in columns of two, from the right. */
  place(bytes) {
    const length = 8 * bytes.length;
    let at = 0;
    for (let right = this.size - 1, up = true; right >= 1; right -= 2, up = !up) {
      if (right === 6) right = 5; // the timing pattern has a column of its own
      for (let step = 0; step < this.size; step += 1) {
        const y = up ? this.size - 1 - step : step;
        for (const x of [right, right - 1]) {
          if (this.taken[y][x] || at >= length) continue;
          this.dark[y][x] = ((bytes[at >>> 3] >>> (7 - (at & 7))) & 1) === 1;
          at += 1;
        }
      }
    }
  }

  /** The rows under the mask with the lowest penalty. */
  masked() {
    let best = null;
    MASKS.forEach((mask, number) => {
      this.#format(number);
      const rows = this.dark.map((row, y) => row.map((dark, x) => (this.taken[y][x] ? dark : dark !== mask(x, y))));
      const cost = penalty(rows);
      if (best === null || cost < best.cost) best = { rows, cost };
    });
    return best.rows;
  }

  #set(x, y, dark) {
    this.dark[y][x] = dark;
    this.taken[y][x] = true;
  }

  #patterns() {
    const { size, version } = this;
    for (let at = 0; at < size; at += 1) {
      this.#set(6, at, at % 2 === 0);
      this.#set(at, 6, at % 2 === 0);
    }
    for (const [x, y] of [[3, 3], [size - 4, 3], [3, size - 4]]) this.#rings(x, y, 4);
    const lines = alignment(version, size);
    const last = lines.length - 1;
    lines.forEach((x, i) =>
      lines.forEach((y, j) => {
        const finder = (i === 0 && (j === 0 || j === last)) || (i === last && j === 0);
        if (!finder) this.#rings(x, y, 2);
      }),
    );
    this.#format(0);
    if (version >= 7) this.#version();
  }

  /** A finder (radius 4, its light border with it) or an alignment pattern (radius 2). */
  #rings(centreX, centreY, radius) {
    for (let dy = -radius; dy <= radius; dy += 1) {
      for (let dx = -radius; dx <= radius; dx += 1) {
        const [x, y] = [centreX + dx, centreY + dy];
        if (x < 0 || y < 0 || x >= this.size || y >= this.size) continue;
        const ring = Math.max(Math.abs(dx), Math.abs(dy));
        this.#set(x, y, radius === 4 ? ring !== 2 && ring !== 4 : ring !== 1);
      }
    }
  }

  /** The level (M has the bits 00) and the mask, twice. */
  #format(mask) {
    const { size } = this;
    const code = ((mask << 10) | division(mask, 0x537, 10)) ^ 0x5412;
    const bit = (at) => ((code >>> at) & 1) === 1;
    for (let at = 0; at < 15; at += 1) {
      if (at < 6) this.#set(8, at, bit(at));
      else if (at < 8) this.#set(8, at + 1, bit(at));
      else if (at === 8) this.#set(7, 8, bit(at));
      else this.#set(14 - at, 8, bit(at));
      if (at < 8) this.#set(size - 1 - at, 8, bit(at));
      else this.#set(8, size - 15 + at, bit(at));
    }
    this.#set(8, size - 8, true);
  }

  #version() {
    const code = (this.version << 12) | division(this.version, 0x1f25, 12);
    for (let at = 0; at < 18; at += 1) {
      const [near, far] = [Math.floor(at / 3), this.size - 11 + (at % 3)];
      const dark = ((code >>> at) & 1) === 1;
      this.#set(far, near, dark);
      this.#set(near, far, dark);
    }
  }
}

/** The remainder of a polynomial over GF(2), shifted by `length` bits. */
function division(value, divisor, length) {
  let left = value;
  for (let at = 0; at < length; at += 1) left = (left << 1) ^ ((left >>> (length - 1)) * divisor);
  return left;
}

/** The coordinates at which alignment patterns stand, the same across and down. */
function alignment(version, size) {
  if (version === 1) return [];
  const count = Math.floor(version / 7) + 2;
  const step = Math.floor((version * 8 + count * 3 + 5) / (count * 4 - 4)) * 2;
  const found = [6];
  for (let at = size - 7; found.length < count; at -= step) found.splice(1, 0, at);
  return found;
}

/** How hard a code is to read: runs, squares, what looks like a finder, and too much of one colour. */
function penalty(rows) {
  const columns = rows.map((_, x) => rows.map((row) => row[x]));
  let cost = 0;
  for (const line of [...rows, ...columns]) {
    for (const [run] of line.map((dark) => (dark ? "1" : "0")).join("").matchAll(/0{5,}|1{5,}/g)) cost += run.length - 2;
    const text = line.map((dark) => (dark ? "1" : "0")).join("");
    for (let at = 0; at + 11 <= text.length; at += 1) {
      const part = text.slice(at, at + 11);
      if (part === "10111010000" || part === "00001011101") cost += 40;
    }
  }
  let dark = 0;
  rows.forEach((row, y) =>
    row.forEach((module, x) => {
      dark += module ? 1 : 0;
      const below = rows[y + 1];
      if (below && x + 1 < row.length && module === row[x + 1] && module === below[x] && module === below[x + 1]) cost += 3;
    }),
  );
  return cost + 10 * Math.floor(Math.abs((20 * dark) / rows.length ** 2 - 10));
}
