// Elements, made without a line of HTML: whatever text is given becomes text.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `data-`, `aria-` and `on...` included) and children: elements or texts. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.includes("-") && name !== "list") made[name] = value;
    else made.setAttribute(name === "class" ? "class" : name, value === true ? "" : String(value));
  }
  if (properties.class) made.className = properties.class;
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** An element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** A label above whatever it names. */
export const field = (text, control, note = null) =>
  el("label", { class: "field" }, el("span", { class: "name" }, text), control,
    note ? el("span", { class: "quiet note" }, note) : null);

export const option = (value, text = value) => el("option", { value }, text);

export const button = (text, onclick, more = {}) => el("button", { type: "button", onclick, ...more }, text);

let hiding = 0;

/** Say something that went wrong, where it is seen and read out. */
export function complain(text) {
  const toast = $("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { toast.hidden = true; }, 9000);
}

/** Say something to those who do not see the page. */
export const announce = (text) => { $("live").textContent = text; };

export const signed = (x) => (x > 0 ? "+" : "") + Number(x.toFixed(2));
