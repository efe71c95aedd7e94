/** Judges a picture before it is sent: by its first bytes and its size, as the server will; and makes it smaller. */

import { formatNames, kilobytes } from "./words.js";

const MB = 1e6;
const QUALITIES = [0.92, 0.85, 0.75, 0.6];
const EVERYWHERE = new Set(["image/jpeg", "image/png", "image/webp"]); // every browser opens these
const SHRINKS = 6; // tries, each at seven tenths of the pixels' side

/** `[type, name]` by the first bytes. A file's name and declared type prove nothing. */
const SIGNATURES = [
  [/^\xff\xd8\xff/, "image/jpeg", "JPEG"],
  [/^\x89PNG\r\n/, "image/png", "PNG"],
  [/^RIFF[^]{4}WEBP/, "image/webp", "WebP"],
  // One of the brands in the first box says which codec it is; the first brand may be a general one (ISO/IEC 23008-12, 10.2).
  [/^[^]{4}ftyp(....)*avi[fs]/s, "image/avif", "AVIF"],
  [/^[^]{4}ftyp(....)*(hei[cxms]|hev[cxms]|mif1|msf1)/s, "image/heic", "HEIC"],
  [/^GIF8/, "image/gif", "GIF"],
  [/^BM/, "image/bmp", "BMP"],
  [/^(II\*\0|MM\0\*)/, "image/tiff", "TIFF"],
  [/^(\xff\n|\0\0\0\fJXL )/, "image/jxl", "JPEG XL"],
  [/^%PDF/, "application/pdf", "PDF"],
  [/^\s*<(\?xml|svg)/, "image/svg+xml", "SVG"],
];
const HEAD_BYTES = 256;

export async function kindOf(file) {
  const bytes = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const whole = String.fromCharCode(...bytes);
  const head = whole.startsWith("ftyp", 4) ? whole.slice(0, new DataView(bytes.buffer).getUint32(0)) : whole; // the first box alone
  const [, type = "", name = ""] = SIGNATURES.find(([pattern]) => pattern.test(head)) ?? [];
  return { type, name };
}

/** The limits of a role: its own, else the server's; null where nothing is known. */
export function limitsOf(role, limits) {
  return {
    formats: role?.formats?.length ? role.formats : (limits?.formats ?? null), // a role without any takes all
    bytes: Math.min(role?.max_bytes ?? Infinity, limits?.max_image_bytes ?? Infinity),
    pixels: Math.min(role?.max_pixels ?? Infinity, limits?.max_pixels ?? Infinity),
    least: limits?.min_side ?? 1,
    side: limits?.max_side ?? Infinity,
  };
}

/**
 * Resolves to `{ width, height, shown, problem }`. `shown`: the browser can show it. `problem`: null, or `{ code, title, text,
 * shrink, doubt }`. `shrink()` resolves to a file that fits, or null; `doubt`: the server may take it all the same.
 */
export async function examine(file, noun, limits) {
  const kind = await kindOf(file);
  const image = await decoded(file);
  const { width = null, height = null } = image ?? {};
  const found = { width, height, shown: image !== null, problem: null };
  const give = (code, title, text, shrink = null, doubt = false) => ({ ...found, problem: { code, title, text, shrink, doubt } });
  const smaller = image && (() => shrunk(image, file, limits));
  const wanted = formatNames(limits.formats);
  if (!kind.type && !image) return give("unsupported_image", `“${file.name}” is not a picture`, `Please choose a ${wanted}.`);
  if (limits.formats && !limits.formats.includes(kind.type)) {
    const what = kind.name || "This kind of picture";
    return image
      ? give("unsupported_image", `${what} is not accepted here`, `This browser can turn it into a JPEG.`, smaller)
      : give("unsupported_image", `${what} is not accepted here`, `Please save ${noun} as ${wanted} first.`);
  }
  if (!image && EVERYWHERE.has(kind.type)) {
    return give("unreadable_image", `${capital(noun)} looks damaged`, "This browser cannot open it.", null, true);
  }
  if (image && Math.min(width, height) < limits.least) {
    return give("image_too_small", `${capital(noun)} is too small`, `It is ${width} × ${height} pixels; ${limits.least} a side are needed.`);
  }
  const why = tooMuch(file, width, height, limits);
  if (why) {
    const text = image ? `${why} It can be made smaller right here.` : `${why} Please choose a smaller one.`;
    return give("body_too_large", `${capital(noun)} is too large`, text, smaller);
  }
  return found;
}

/** Why all pictures, or the options, are more than the server takes at once: `{ title, text }`; null if they are not. */
export function excess(files, params, limits) {
  const sum = files.reduce((bytes, { size }) => bytes + size, 0);
  if (sum > (limits?.max_body_bytes ?? Infinity)) {
    const text = `They are ${kilobytes(sum)}; at most ${kilobytes(limits.max_body_bytes)} are taken at once. Please choose smaller ones.`;
    return { title: "The pictures are too large together", text };
  }
  const length = new TextEncoder().encode(JSON.stringify(params)).length;
  if (length > (limits?.max_params_bytes ?? Infinity)) {
    return { title: "The options are too long", text: `At most ${kilobytes(limits.max_params_bytes)} are taken. Please shorten a text.` };
  }
  return null;
}

function tooMuch(file, width, height, limits) {
  if (file.size > limits.bytes) return `It is ${kilobytes(file.size)}; at most ${kilobytes(limits.bytes)} is allowed.`;
  if (width * height > limits.pixels) {
    return `It has ${Math.round((width * height) / MB)} megapixels; at most ${Math.round(limits.pixels / MB)} are allowed.`;
  }
  if (Math.max(width, height) > limits.side) return `A side has ${Math.max(width, height)} pixels; at most ${limits.side} are allowed.`;
  return null;
}

async function decoded(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return image.naturalWidth > 0 ? Object.assign(image, { width: image.naturalWidth, height: image.naturalHeight }) : null;
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** A JPEG of the picture within the limits, as large and as good as they allow; null if none fits. */
async function shrunk(image, file, limits) {
  const { width, height } = image;
  let scale = Math.min(1, limits.side / Math.max(width, height), Math.sqrt(limits.pixels / (width * height)));
  for (let tries = 0; tries < SHRINKS; tries += 1, scale *= 0.7) {
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.floor(width * scale));
    canvas.height = Math.max(1, Math.floor(height * scale));
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff"; // a JPEG has no transparency
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    for (const quality of QUALITIES) {
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
      if (blob && blob.size <= limits.bytes) return new File([blob], file.name.replace(/\.\w+$/, "") + ".jpg", { type: "image/jpeg" });
    }
  }
  return null;
}

function capital(words) {
  return words.charAt(0).toUpperCase() + words.slice(1);
}
