/**
 * Rules that hold in every state of the page. Each returns what breaks it, one line a fault; test_page_states.py
 * evaluates this file and calls them.
 */
(() => {
  const LEAST = { edge: 3, text: 4.5, target: 24 }; // WCAG 2.2: 1.4.11, 1.4.3, 2.5.8
  const WHITE = [255, 255, 255, 1];
  const BLACK = [0, 0, 0, 1];
  const CLOTH = [16, 16, 18, 1]; // a black garment
  const CONTROLS = "button, a.button, input:not(.unseen, .compare-range), select, .zone, .tool";
  const FOCUSABLE = "a[href], button, input, select, summary, [tabindex='0']";
  const ON_PICTURES = ".compare-zoom, .compare-line, .compare-tag, .remove, .example figcaption";

  const name = (element) => element.id || element.className || element.outerHTML.slice(0, 80);
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const all = (selector) => [...document.querySelectorAll(selector)].filter(visible);

  // --- colours --------------------------------------------------------------------------------------------------------

  const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  /** Red, green and blue of 0 to 255, and alpha of 0 to 1, of a colour as it is computed. */
  function rgba(colour) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }

  function over([r, g, b, a], below) {
    return [...[r, g, b].map((part, n) => part * a + below[n] * (1 - a)), 1];
  }

  function luminance(colour) {
    const [r, g, b] = colour.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(one, other) {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  }

  /** What lies behind the content of an element. */
  function ground(element) {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.unshift(rgba(getComputedStyle(at).backgroundColor));
      if (layers[0][3] === 1) break;
    }
    return layers.reduce((below, layer) => over(layer, below), WHITE);
  }

  /** What an element lies on; a picture may have any colour. */
  function grounds(element) {
    return element.closest(ON_PICTURES) ? [WHITE, BLACK] : [ground(element.parentElement)];
  }

  function border(style, below) {
    const there = style.borderTopStyle !== "none" && parseFloat(style.borderTopWidth) >= 1;
    return there ? over(rgba(style.borderTopColor), below) : below;
  }

  function ring(style, below) {
    const there = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return there ? over(rgba(style.outlineColor), below) : below;
  }

  function shadow(style, below) {
    const [colour] = /rgba?\([^)]*\)/.exec(style.boxShadow) ?? [];
    return colour ? over(rgba(colour), below) : below;
  }

  // --- rules ----------------------------------------------------------------------------------------------------------

  /** Edges of controls, their icons, the bar, what lies on pictures, and what lies behind them. */
  function contrasts() {
    const found = [];
    const expect = (what, ratio, least = LEAST.edge) => ratio < least && found.push(`${what}: contrast ${ratio.toFixed(2)}`);
    for (const control of all(CONTROLS)) {
      if (control.matches("[type=checkbox], [type=range]")) continue; // the browser draws them
      const style = getComputedStyle(control);
      for (const below of grounds(control)) {
        const fill = over(rgba(style.backgroundColor), below);
        const edge = Math.max(contrast(border(style, below), below), contrast(fill, below));
        if (edge > 1.02) expect(`edge of ${name(control)}`, edge); // else it is text alone
        if (control.closest(ON_PICTURES)) expect(`text of ${name(control)}`, contrast(rgba(style.color), fill), LEAST.text);
      }
      for (const icon of control.querySelectorAll("svg")) {
        if (visible(icon)) expect(`icon of ${name(control)}`, contrast(rgba(getComputedStyle(icon).stroke), ground(control)));
      }
    }
    for (const tag of all(".compare-tag, .example figcaption span")) {
      const { color, backgroundColor } = getComputedStyle(tag);
      for (const below of [WHITE, BLACK]) expect(name(tag), contrast(rgba(color), over(rgba(backgroundColor), below)), LEAST.text);
    }
    for (const line of all(".compare-line")) {
      for (const pseudo of [null, "::after"]) {
        const style = getComputedStyle(line, pseudo);
        const fill = rgba(style.backgroundColor);
        for (const below of [WHITE, BLACK]) {
          expect(`slider${pseudo ?? ""}`, Math.max(contrast(fill, below), contrast(shadow(style, below), below)));
        }
        if (pseudo) expect("arrows of the slider", contrast(rgba(style.color), fill));
      }
    }
    for (const bar of all("#bar")) {
      const track = ground(bar);
      const part = getComputedStyle(bar.classList.contains("unknown") ? bar : bar.firstElementChild, bar.classList.contains("unknown") ? "::after" : null);
      const [r, g, b] = rgba(part.backgroundColor);
      expect("bar", contrast(over([r, g, b, Number(part.opacity)], track), track));
    }
    for (const image of all("img.zone-picture, img.inset, img.picture, .sample img, .mine img")) {
      expect(`a black garment in ${name(image)}`, contrast(CLOTH, ground(image)));
    }
    return found;
  }

  /** Pixels a side; links within a sentence are excepted. */
  function targets() {
    return [...document.querySelectorAll(`${FOCUSABLE}, [role=tab], [role=switch]`)]
      .map((element) => (element.matches("input.unseen") ? element.closest("label") : element))
      .filter((element) => visible(element) && !element.matches("p a, p span a, .compare-range"))
      .map((element) => ({ element, box: element.getBoundingClientRect() }))
      .filter(({ box }) => box.width > 0 && Math.min(box.width, box.height) < LEAST.target)
      .map(({ element, box }) => `${name(element)}: ${box.width} x ${box.height}`);
  }

  /** Whatever makes the page wider than the screen. */
  function wide(width) {
    if (document.scrollingElement.scrollWidth <= width) return [];
    const out = all("body *").filter((each) => each.getBoundingClientRect().right > width + 1);
    return [`${document.scrollingElement.scrollWidth} px wide`, ...out.map((each) => `${name(each)}: ${each.getBoundingClientRect().right}`)];
  }

  /** Text that an edge cuts off, where nothing can be scrolled. */
  function cut(width) {
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    while (walker.nextNode()) {
      const { data, parentElement } = walker.currentNode;
      if (!data.trim() || parentElement.closest(".unseen, noscript, option") || !visible(parentElement)) continue;
      range.selectNodeContents(walker.currentNode);
      for (const box of range.getClientRects()) {
        const by = box.width > 0 && cutting(box, parentElement, width);
        if (by) found.push(`“${data.trim().slice(0, 30)}” by ${by}`);
      }
    }
    return found;
  }

  function cutting(box, parent, width) {
    const scrolls = { x: false, y: false };
    for (let at = parent; at !== document.body; at = at.parentElement) {
      const { overflowX, overflowY, position } = getComputedStyle(at);
      const edge = at.getBoundingClientRect();
      scrolls.x ||= /auto|scroll/.test(overflowX);
      scrolls.y ||= /auto|scroll/.test(overflowY);
      if (!scrolls.x && overflowX !== "visible" && (box.left < edge.left - 1 || box.right > edge.right + 1)) return name(at);
      if (!scrolls.y && overflowY !== "visible" && (box.top < edge.top - 2 || box.bottom > edge.bottom + 2)) return name(at);
      if (position !== "fixed") continue;
      if (edge.top < -1 || edge.bottom > innerHeight + 1) return "the screen's height";
      break;
    }
    return !scrolls.x && (box.left < -1 || box.right > width + 1) ? "the screen's width" : null;
  }

  /** Words that lie under a picture, and look out beside it. */
  function covered() {
    return all("img.zone-picture").flatMap((image) => [...image.parentElement.children].filter((each) => each !== image && each.matches("svg, span") && visible(each)).map(name));
  }

  /** Everything that would move although a reader does not want it. */
  function moving() {
    const found = document.getAnimations().map((each) => each.animationName ?? each.transitionProperty);
    for (const element of document.querySelectorAll("*")) {
      for (const pseudo of [null, "::before", "::after"]) {
        const { animationName, transitionDuration, transitionProperty } = getComputedStyle(element, pseudo);
        const still = animationName === "none" && (transitionProperty === "none" || /^0s(, 0s)*$/.test(transitionDuration));
        if (!still) found.push(`${name(element)}${pseudo ?? ""}`);
      }
    }
    return found;
  }

  /** Controls without a line around them, where backgrounds are gone. */
  function unlined() {
    const bare = (element) => border(getComputedStyle(element), [0, 0, 0, 0])[3] === 0;
    return all(CONTROLS).filter((each) => !each.matches(".plain, .link, [type=checkbox], [type=range]") && bare(each)).map(name);
  }

  /** Focuses everything that the keyboard reaches; a key was pressed before. */
  function focus() {
    const found = [];
    for (const element of document.querySelectorAll(FOCUSABLE)) {
      if (!element.checkVisibility({ visibilityProperty: true })) continue;
      element.focus({ preventScroll: true });
      if (document.activeElement !== element) continue; // behind a dialog
      const slider = element.matches(".compare-range");
      const holder = slider ? element.nextElementSibling : element.matches("input.unseen") ? element.closest("label") : element;
      const style = getComputedStyle(holder, slider ? "::after" : null);
      for (const below of grounds(holder)) {
        const ratio = Math.max(contrast(ring(style, below), below), contrast(shadow(style, below), below));
        if (ratio < LEAST.edge || style.outlineStyle === "none") found.push(`focus of ${name(element)}: contrast ${ratio.toFixed(2)}`);
      }
    }
    return found;
  }

  window.rules = { contrasts, targets, wide, cut, covered, moving, unlined, focus };
})();
