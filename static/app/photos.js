/** Ways a picture comes in: chosen, dropped on a zone or anywhere on the page, or pasted. */

const WORDS = {
  folder: "That is a folder. Please drop one photo out of it.",
  elsewhere: "That picture is still on another page. Save it to this device first, then choose the file.",
  link: "That is a link, not a picture. Please drop a photo.",
  unreadable: "That picture could not be read. Save it to this device first, then choose the file.",
};

const DATA = /^data:(image\/[a-z.+-]+);base64,([A-Za-z0-9+/=%\s]+)$/i;

/** Returns whether the browser is sure that this is no picture. A name or type proves nothing; the server judges the content. */
function surelyNoPicture(file) {
  return file.type !== "" && !file.type.startsWith("image/");
}

/**
 * Decides what to do with a drop or paste: `{ files }` or `{ url }` to take, `{ words }` to say, or null if it holds neither a
 * file nor a link nor a picture. `files`: `{ file, folder }`; `links`: URLs; `pictures`: URLs of the pictures in the HTML.
 * `wanted`: what is taken, such as "JPEG or PNG".
 */
export function decide({ files, links, pictures }, origin, wanted) {
  const usable = files.filter(({ file, folder }) => !folder && !surelyNoPicture(file));
  if (usable.length > 0) return { files: usable.map(({ file }) => file) };
  const url = pictures[0] ?? links.find((link) => /^data:image\/|\.(jpe?g|png|webp|avif)$/i.test(link.split(/[?#]/)[0]));
  if (url !== undefined) return DATA.test(url) || url.startsWith(`${origin}/`) ? { url } : { words: WORDS.elsewhere };
  if (files.some(({ folder }) => folder)) return { words: WORDS.folder };
  if (files.length > 0) return { words: `“${files[0].file.name}” is not a picture. Please choose a ${wanted}.` };
  return links.length > 0 ? { words: WORDS.link } : null;
}

/** Returns the files, links and pictures of a drop or paste, for `decide()`. Readable only while the event is handled. */
function contents(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const files = items.map((item) => ({ file: item.getAsFile(), folder: item.webkitGetAsEntry()?.isDirectory ?? false }));
  const links = transfer.getData("text/uri-list").split(/\r?\n/).filter((line) => line && !line.startsWith("#"));
  const page = new DOMParser().parseFromString(transfer.getData("text/html"), "text/html"); // loads and runs nothing
  const pictures = [...page.images].map((image) => image.getAttribute("src")).filter(Boolean);
  return { files: files.filter(({ file, folder }) => file || folder), links, pictures };
}

async function read(url) {
  const [, type, data] = DATA.exec(url) ?? [];
  if (type) {
    const bytes = Uint8Array.from(atob(decodeURIComponent(data)), (character) => character.charCodeAt(0));
    return new File([bytes], "picture", { type });
  }
  const answer = await fetch(url, { credentials: "omit" });
  if (!answer.ok) throw new Error(`no picture: ${answer.status}`);
  const blob = await answer.blob();
  return new File([blob], "picture", { type: blob.type });
}

/** Calls `onFiles` with the files chosen through the input; the same file may be chosen twice in a row. */
export function onChoose(input, onFiles) {
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = "";
    if (files.length > 0) onFiles(files);
  });
}

/**
 * Drops and pastes, on the whole page. `zones()`: elements with the name of what is dropped on them; anywhere else it is null.
 * Calls `onFiles(files, name)`, or `onWords(text)` with the reason why there is none. `curtain` shows while something hovers
 * over the page. Nothing is taken while `accepts()` is false, nor what is dragged from this page itself. `wanted()`: what is
 * taken, in words.
 */
export function onArrive({ zones, curtain, accepts, wanted, onFiles, onWords }) {
  let depth = 0; // dragenter and dragleave come in pairs, for every element on the way
  let own = false; // the drag began on this page
  const zoneOf = (target) => zones().find(([element]) => element.contains(target)) ?? [null, null];
  const clear = () => {
    depth = 0;
    curtain.hidden = true;
    for (const [element] of zones()) element.classList.remove("over");
  };
  const concerns = ({ dataTransfer }) => dataTransfer?.types.some((type) => type === "Files" || type === "text/uri-list");
  const welcome = () => accepts() && !own;

  async function take(held, name) {
    const { files = null, url, words } = decide(held, location.origin, wanted()) ?? {};
    if (files) onFiles(files, name);
    else if (words) onWords(words);
    else if (url) {
      const picture = await read(url).catch(() => null);
      if (!accepts()) return;
      if (picture) onFiles([picture], name);
      else onWords(WORDS.unreadable);
    }
  }

  addEventListener("dragstart", () => {
    own = true;
    addEventListener("pointermove", () => (own = false), { once: true }); // no `dragend` comes if the element was removed
  });
  addEventListener("dragend", () => (own = false));
  addEventListener("dragenter", (event) => {
    if (!concerns(event)) return;
    event.preventDefault();
    depth += 1;
    curtain.hidden = !welcome();
  });
  addEventListener("dragleave", (event) => {
    if (!concerns(event)) return;
    depth -= 1;
    if (depth <= 0) clear();
  });
  addEventListener("dragover", (event) => {
    if (!concerns(event)) return;
    event.preventDefault(); // otherwise the browser would open the file or the link
    event.dataTransfer.dropEffect = welcome() ? "copy" : "none";
    const [over] = welcome() ? zoneOf(event.target) : [null];
    for (const [element] of zones()) element.classList.toggle("over", element === over);
  });
  addEventListener("drop", (event) => {
    if (!concerns(event)) return;
    event.preventDefault();
    clear();
    if (welcome()) take(contents(event.dataTransfer), zoneOf(event.target)[1]);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData || !accepts()) return;
    const held = contents(event.clipboardData);
    if (decide(held, location.origin, wanted()) === null) return;
    event.preventDefault();
    take(held, zoneOf(document.activeElement)[1]);
  });
}
