// Elements, made without HTML: text from the server is only ever text.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Attributes that are null, undefined or false are left out; functions are listeners ("onclick").
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node|string|number|null|undefined|false)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  return /** @type {HTMLElement} */ (fill(document.createElement(tag), attributes, children));
}

/** @param {string} tag @param {Record<string, any>} [attributes] @param {...Node} children */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets a text that has changed, so that nothing else is touched. @param {Node} node @param {string} text */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const ICONS = {
  running: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM6.5 5 11 8l-4.5 3Z",
  finished: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Zm3.6 4.9L7.2 11 4.4 8.3l1.1-1.1 1.7 1.6 3.3-3.5Z",
  stalled: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM5.5 5h1.8v6H5.5Zm3.2 0h1.8v6H8.7Z",
  failed: "M8 1 15.5 14.5H.5ZM7.2 6v4.2h1.6V6Zm0 5.2v1.6h1.6v-1.6Z",
  killed:
    "M5.2 1h5.6L15 5.2v5.6L10.8 15H5.2L1 10.8V5.2ZM5.3 6.4 6.9 8 5.3 9.6l1.1 1.1L8 9.1l1.6 1.6 1.1-1.1L9.1 8l1.6-1.6-1.1-1.1L8 6.9 6.4 5.3Z",
  aborted: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM5.3 5.3h5.4v5.4H5.3Z",
};

/** A picture of a state; the word stands beside it. @param {string} state */
export function icon(state) {
  const shape = svg("path", { d: ICONS[state] ?? ICONS.aborted, "fill-rule": "evenodd" });
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, shape);
}

/** @param {string} state */
export function badge(state) {
  return el("span", { class: `badge is-${state}` }, icon(state), state);
}

/** A progress bar with its ratio, 0 to 1, or none where that is unknown. @param {string} name @param {number|null} ratio */
export function bar(name, ratio) {
  const drawn = el("progress", { max: 1, "aria-label": name });
  if (ratio !== null) drawn.setAttribute("value", String(ratio));
  return drawn;
}

/** How a loss went, as a line without axes. @param {number[]} values */
export function sparkline(values) {
  const drawn = svg("svg", {
    class: "sparkline",
    viewBox: "0 0 100 24",
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  const known = values.filter(Number.isFinite);
  if (known.length < 2) return drawn;
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const line = known.map((value, index) => {
    const x = (index / (known.length - 1)) * 100;
    return `${index ? "L" : "M"}${x.toFixed(1)} ${(22 - ((value - low) / span) * 20).toFixed(1)}`;
  });
  drawn.append(svg("path", { d: line.join(""), "vector-effect": "non-scaling-stroke" }));
  return drawn;
}

/** What fills a view that has nothing else to show. @param {string} title @param {...(Node|string|null|false)} children */
export function notice(title, ...children) {
  return el("div", { class: "notice" }, el("h2", {}, title), ...children);
}
