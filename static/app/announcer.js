/** Announcements to screen readers. They are queued: none replaces another that was not spoken yet. */

const KEPT = 20; // lines; older lines have been spoken

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
