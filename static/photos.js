/** Ways a picture comes in: chosen, dropped on a zone or anywhere on the page, or pasted. */

/** Whether the browser is sure that this is no picture. A name or type proves nothing; the server judges the content. */
export function surelyNoPicture(file) {
  return file.type !== "" && !file.type.startsWith("image/");
}

/** Calls `onFile` with each file chosen through the input; the same file may be chosen twice in a row. */
export function onChoose(input, onFile) {
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (file) onFile(file);
  });
}

/**
 * Drops and pastes, on the whole page. `zones`: elements with the name of what is dropped on them; anywhere else it is
 * `fallback`. Calls `onFile(file, name)`. `curtain` shows while a file hovers over the page. Nothing is taken while
 * `accepts()` is false.
 */
export function onArrive({ zones, fallback, curtain, accepts, onFile }) {
  let depth = 0; // dragenter and dragleave come in pairs, for every element on the way
  const zoneOf = (target) => [...zones].find(([element]) => element.contains(target)) ?? [null, fallback];
  const clear = () => {
    depth = 0;
    curtain.hidden = true;
    for (const [element] of zones) element.classList.remove("over");
  };
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");

  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    depth += 1;
    curtain.hidden = !accepts();
  });
  addEventListener("dragleave", (event) => {
    if (!holdsFiles(event)) return;
    depth -= 1;
    if (depth <= 0) clear();
  });
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // otherwise the browser would open the file
    event.dataTransfer.dropEffect = accepts() ? "copy" : "none";
    const [over] = accepts() ? zoneOf(event.target) : [null];
    for (const [element] of zones) element.classList.toggle("over", element === over);
  });
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    clear();
    const [file] = event.dataTransfer.files;
    if (file && accepts()) onFile(file, zoneOf(event.target)[1]);
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file || !accepts()) return;
    event.preventDefault();
    onFile(file, zoneOf(document.activeElement)[1]);
  });
}
