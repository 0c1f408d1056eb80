// A slider for each direction, with the rows of the latents that it moves; the picture follows at once.

import { button, el, signed } from "./dom.js";
import { done, onchange, state } from "./store.js";
import { redraw } from "./stage.js";

const MOST = 3; // standard deviations
const rows = new Map(); // name -> {slider, output, first, last}

export function panel() {
  const search = el("input", { type: "search", id: "search", placeholder: "Find a direction", "aria-label": "Find a direction" });
  const list = el("div", { id: "sliders", class: "sliders" });
  const reset = button("Reset all", () => {
    if (!state.look?.edits.length) return;
    state.look.edits = [];
    done("All sliders back", state.look);
  }, { id: "reset", class: "plain" });
  const none = el("p", { class: "quiet", id: "nothing" }, "Invert a picture, or open a result, to edit it.");
  search.oninput = () => {
    for (const [name, { root }] of rows) root.hidden = !name.includes(search.value.trim().toLowerCase().replaceAll(" ", "_"));
  };
  onchange((what) => {
    if (what.has("about")) {
      rows.clear();
      list.replaceChildren(...state.about.directions.map(slider));
    }
    if (what.has("look")) {
      none.hidden = Boolean(state.look);
      for (const [name, row] of rows) set(name, row);
    }
  });
  return [el("div", { class: "row" }, search, reset), none, list];
}

const words = (name) => name.replaceAll("_", " ");

function slider(direction) {
  const { name } = direction;
  const id = `slider-${name}`;
  const input = el("input", { type: "range", id, class: "centred", min: -MOST, max: MOST, step: 0.05, value: 0, "data-name": name });
  const output = el("output", { for: id }, "0");
  const number = (title, value) => el("input", { type: "number", min: 0, max: state.about.rows - 1, value, "aria-label": `${words(name)}: ${title}` });
  const first = number("first row", direction.rows[0]);
  const last = number("last row", direction.rows.at(-1));
  const layers = el("details", { class: "layers" }, el("summary", { title: "Rows of the latents that it moves" }, "rows"),
    el("div", { class: "row" }, first, "to", last));
  const back = button("×", () => { input.value = "0"; changed(name); settled(name); }, { class: "tiny", "aria-label": `${words(name)}: back to 0` });
  input.oninput = () => changed(name);
  input.onchange = () => settled(name);
  first.onchange = last.onchange = () => { if (Number(input.value)) { changed(name); settled(name, "rows"); } };
  const root = el("div", { class: "slider" },
    el("label", { for: id }, words(name)), layers, output, back, input);
  rows.set(name, { root, input, output, first, last, own: direction.rows });
  return root;
}

/** Take a row's values over into the look, and draw it. */
function changed(name) {
  const { input, first, last, own } = rows.get(name);
  const strength = Number(input.value);
  told(rows.get(name), strength);
  if (!state.look) return;
  const edit = { name, strength };
  const [a, b] = [Number(first.value), Number(last.value)];
  const contiguous = own.length === own.at(-1) - own[0] + 1;
  if (a !== own[0] || b !== own.at(-1) || !contiguous) Object.assign(edit, { first: Math.min(a, b), last: Math.max(a, b) });
  if (!contiguous && a === own[0] && b === own.at(-1)) { delete edit.first; delete edit.last; }
  const at = state.look.edits.findIndex((other) => other.name === name);
  if (strength === 0) state.look.edits = state.look.edits.filter((other) => other.name !== name);
  else if (at < 0) state.look.edits.push(edit);
  else state.look.edits[at] = edit;
  redraw();
}

function told({ root, input, output }, strength) {
  output.textContent = signed(strength);
  input.style.setProperty("--at", `${50 + (50 * strength) / MOST}%`);
  root.classList.toggle("moved", strength !== 0);
}

/** The pointer has let go: a step of the history. */
function settled(name, what = null) {
  if (!state.look) return;
  done(what ? `${words(name)}: ${what}` : `${words(name)} ${signed(Number(rows.get(name).input.value))}`, state.look);
}

/** Show a direction as the look has it. */
function set(name, row) {
  const { input, first, last, own } = row;
  const edit = state.look?.edits.find((other) => other.name === name);
  const strength = edit?.strength ?? 0;
  input.disabled = !state.look;
  if (Number(input.value) !== strength) input.value = String(strength);
  told(row, strength);
  first.value = String(edit?.first ?? own[0]);
  last.value = String(edit?.last ?? own.at(-1));
}
