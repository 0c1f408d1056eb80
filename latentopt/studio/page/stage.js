// The picture: alone, wiped over what it came from, or side by side with it; and its history.

import { $, button, el, option } from "./dom.js";
import { draw, on } from "./link.js";
import { drawingOf, go, onchange, pictureOf, state, targetOf } from "./store.js";

const VIEWS = { picture: "Picture", wipe: "Wipe", pair: "Side by side" };
const PHOTO = "the photograph";
const PLAIN = "no edits";
let view = "picture";
let following = null; // the job whose pictures are shown as they come

const after = el("img", { id: "after", alt: "", draggable: false });
const before = el("img", { id: "before", alt: "", draggable: false });
const overlay = el("div", { id: "overlay", class: "overlay" });
const wipe = el("input", { type: "range", id: "wipe", min: 0, max: 100, value: 50, "aria-label": "Wipe between before and after" });
const caption = { after: el("figcaption", {}), before: el("figcaption", {}) };
const frames = el("div", { class: "frames", "data-view": view },
  el("figure", { class: "before" }, el("div", { class: "sheet" }, before), caption.before),
  el("figure", { class: "after" }, el("div", { class: "sheet" }, after, overlay), caption.after));
const empty = el("p", { class: "empty" }, "Choose a picture on the left, or drop one anywhere. Everything stays on this machine.");

export const layer = overlay; // where tools draw on the picture

export function start() {
  $("easel").append(empty, frames, wipe);
  $("views").append(...Object.entries(VIEWS).map(([name, text]) =>
    el("label", {}, el("input", { type: "radio", name: "view", value: name, checked: name === view, class: "unseen",
      onchange: () => look(name) }), el("span", {}, text))));
  wipe.oninput = () => frames.style.setProperty("--wipe", `${wipe.value}%`);
  $("with").onchange = () => { if (view === "picture") look("pair"); else compared(); };
  after.addEventListener("load", () => { after.dataset.loaded = String(Number(after.dataset.loaded ?? 0) + 1); });
  frames.addEventListener("pointerdown", slide);
  frames.addEventListener("pointermove", (event) => { if (event.buttons) slide(event); });
  onchange((what) => {
    if (what.has("lists") || what.has("look")) others();
    if (what.has("picture") || what.has("look")) { following = null; redraw(); }
    if (what.has("history") || what.has("look")) history();
  });
  on("frame", ({ job, picture }) => { if (job === following) put(after, picture); });
}

function slide(event) {
  if (view !== "wipe" || overlay.classList.contains("busy")) return;
  const box = after.getBoundingClientRect();
  wipe.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
  wipe.oninput();
}

/** Change the way of looking: picture, wipe or pair; `other` is what is compared with. */
export function look(name, other = null) {
  view = name;
  frames.dataset.view = name;
  wipe.hidden = name !== "wipe";
  for (const input of document.getElementsByName("view")) input.checked = input.value === name;
  if (other !== null) $("with").value = other;
  compared();
}

/** Show the pictures of a job as it goes on. */
export function follow(job) {
  following = job;
  caption.after.textContent = "converging";
  frames.hidden = false;
  empty.hidden = true;
}

function put(image, source) {
  const old = image.src;
  image.src = source instanceof Blob ? URL.createObjectURL(source) : source;
  if (old.startsWith("blob:")) image.addEventListener("load", () => URL.revokeObjectURL(old), { once: true });
}

function others() {
  const chosen = $("with").value || PHOTO;
  const rest = state.results.filter((result) => result.base !== state.look?.base);
  $("with").replaceChildren(option(PHOTO), option(PLAIN), ...rest.map((result) => option(result.base, result.name)));
  $("with").value = [...$("with").options].some((o) => o.value === chosen) ? chosen : PHOTO;
}

/** Draw what is worked on, as it is now. */
export function redraw() {
  empty.hidden = Boolean(state.look || state.picture);
  frames.hidden = !empty.hidden;
  wipe.hidden = view !== "wipe" || frames.hidden;
  if (following !== null || frames.hidden) return;
  if (!state.look) {
    put(after, pictureOf(state.picture));
    after.alt = `the photograph ${state.picture}`;
    caption.after.textContent = state.picture.split("/").pop();
  } else {
    draw(state.look, (picture) => put(after, picture));
    after.alt = describe(state.look);
    caption.after.textContent = describe(state.look);
  }
  compared();
}

function compared() {
  if (view === "picture" || frames.hidden) return;
  const other = $("with").value;
  const base = state.look?.base;
  if (other === PLAIN && base) put(before, drawingOf(base));
  else if (other === PHOTO || other === PLAIN || !base) {
    const target = base ? targetOf(base) : state.picture && pictureOf(state.picture);
    if (target) put(before, target);
  } else draw({ base: other, edits: state.look.edits, mix: null }, (picture) => put(before, picture), "other");
  before.alt = `before: ${other}`;
  caption.before.textContent = other;
}

export function describe(what) {
  const edits = what.edits.map((e) => `${e.name} ${e.strength > 0 ? "+" : ""}${e.strength}`);
  const mix = what.mix ? [`mixed with ${what.mix.other} from row ${what.mix.row}`] : [];
  return [what.base, ...edits, ...mix].join(", ");
}

function history() {
  $("undo").disabled = state.at <= 0;
  $("redo").disabled = state.at >= state.history.length - 1;
  $("history").replaceChildren(...state.history.map((entry, i) =>
    el("li", {}, button(entry.label, () => go(i), { class: "chip", "aria-current": i === state.at ? "step" : null }))));
  $("history").lastElementChild?.scrollIntoView?.({ block: "nearest", inline: "nearest" });
}
