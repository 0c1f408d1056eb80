// Mixing: the coarse rows of this picture, the fine rows of another.

import { button, el, field, option } from "./dom.js";
import { done, onchange, state } from "./store.js";
import { redraw } from "./stage.js";

export function panel() {
  const other = el("select", { id: "mix-with" });
  const row = el("input", { type: "range", id: "mix-row", min: 1, step: 1 });
  const says = el("output", { class: "quiet", for: "mix-row" });
  const apply = button("Mix", () => { preview(); done(`Mixed with ${other.value} from row ${row.value}`, state.look); }, { id: "mix", class: "main" });
  const off = button("Without", () => { state.look.mix = null; done("Mixed no more", state.look); }, { class: "plain" });
  const box = el("fieldset", { class: "bare" }, field("Fine rows from", other), field("First row from there", row), says,
    el("div", { class: "row" }, apply, off));
  const none = el("p", { class: "quiet" }, "Mixing takes two results: open one, and have another to take from.");

  function preview() {
    if (!state.look || !other.value) return;
    state.look.mix = { other: other.value, row: Number(row.value) };
    redraw();
  }

  const tell = () => {
    says.textContent = `rows 0 to ${row.value - 1} of this one (pose, shape), ${row.value} to ${row.max} of the other (colours, light)`;
  };
  row.oninput = () => { tell(); preview(); };
  other.onchange = preview;
  onchange((what) => {
    if (what.has("about")) {
      row.max = String(state.about.rows - 1);
      row.value = String(Math.max(1, Math.round((7 / 18) * state.about.rows)));
      tell();
    }
    if (what.has("lists") || what.has("look")) {
      const chosen = state.look?.mix?.other ?? other.value;
      const rest = state.results.filter((result) => result.base !== state.look?.base);
      other.replaceChildren(...rest.map((result) => option(result.base, result.name)));
      if (rest.some((result) => result.base === chosen)) other.value = chosen;
      if (state.look?.mix) { row.value = String(state.look.mix.row); tell(); }
      box.disabled = !state.look || rest.length === 0;
      none.hidden = !box.disabled;
    }
  });
  return [el("p", { class: "quiet note" }, "Coarse rows set pose and shape, fine rows colours and light."), none, box];
}
