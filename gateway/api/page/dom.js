// Elements are made of values here, and only here. Text goes in as text: whatever a name or an
// error message holds, it is never read as markup. Attributes that run code are not taken.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element. Attributes that are null, undefined or false are left out. */
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (/^on|^style$|^srcdoc$/i.test(name)) throw new TypeError(`${name} is not set from here`);
    if (name === "href" && !String(value).startsWith("#")) throw new TypeError("links lead within the page");
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/**
 * Make `target` hold what `wanted` holds, and touch nothing that is the same: focus, selection, scrolling, an open
 * `details` and running animations stay. Children with a `data-key` are found by it.
 */
export function morph(target, wanted) {
  const keyed = new Map();
  for (const child of target.children) {
    if (child.dataset.key !== undefined) keyed.set(child.dataset.key, child);
  }
  let at = target.firstChild;
  for (const fresh of [...wanted.childNodes]) {
    const key = fresh.nodeType === Node.ELEMENT_NODE ? fresh.dataset.key : undefined;
    let old = key === undefined ? at : keyed.get(key);
    if (old !== undefined && old !== null && old !== at && key !== undefined) {
      target.insertBefore(old, at);
    }
    if (old && alike(old, fresh)) {
      at = old.nextSibling;
      if (old.nodeType === Node.TEXT_NODE) {
        if (old.data !== fresh.data) old.data = fresh.data;
      } else if (!old.hasAttribute("data-own")) {
        sameAttributes(old, fresh);
        morph(old, fresh);
      }
    } else {
      if (old && key !== undefined) {
        // The same thing in another shape.
        if (old === at) at = old.nextSibling;
        old.replaceWith(fresh);
      } else {
        target.insertBefore(fresh, at);
      }
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function alike(old, fresh) {
  return (
    old.nodeType === fresh.nodeType &&
    old.nodeName === fresh.nodeName &&
    (old.nodeType !== Node.ELEMENT_NODE || old.dataset.key === fresh.dataset.key)
  );
}

function sameAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}
