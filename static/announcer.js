/** What a screen reader says: a queue, in which nothing replaces what was not yet spoken. */

const KEPT = 20; // lines; older ones have been spoken

/**
 * Returns `announce(text)`, which adds a line to a region with `role="log"`. Screen readers speak each added line after the
 * ones before; a region whose text is replaced loses what was still to be spoken.
 */
export function announcer(region) {
  return (text) => {
    const line = document.createElement("p");
    line.textContent = text;
    region.append(line);
    if (region.children.length > KEPT) region.firstElementChild.remove();
  };
}
