// Restoring: the picture of which the chosen one is a measurement.

import { button, complain, el, field, option } from "./dom.js";
import { onchange, state } from "./store.js";
import { work } from "./tools.js";

const OPERATORS = {
  "down:2": "half as large", "down:4": "a quarter as large", "down:8": "an eighth as large", "gray": "grey",
  "blur:1": "blurred", "jpeg:12": "compressed (JPEG)", "noise:gaussian:25": "noisy", "mask": "parts missing (transparent)",
  "down:2,jpeg:20": "smaller and compressed",
};

export function panel() {
  const preset = el("select", { id: "operator-preset" }, ...Object.entries(OPERATORS).map(([value, text]) => option(value, text)));
  const operator = el("input", { type: "text", id: "operator", value: "down:4", spellcheck: false });
  const recipe = el("select", { id: "restore-recipe" });
  const steps = el("input", { type: "number", id: "restore-steps", min: 1, max: 100000 });
  const simulate = el("input", { type: "checkbox", id: "simulate", checked: true });
  const go = button("Restore", () => {
    if (!state.picture) { complain("choose a picture first"); return; }
    const asked = { picture: state.picture, operator: operator.value.trim(), recipe: recipe.value, simulate: simulate.checked };
    if (steps.value) asked.steps = Number(steps.value);
    work("restore", asked, `Restored from ${asked.operator}`);
  }, { id: "restore", class: "main" });
  preset.value = "down:4";
  preset.onchange = () => { operator.value = preset.value; };
  onchange((what) => {
    if (what.has("about")) {
      const good = ["robust", "brgm", "ilo", "pulse", "bdinvert", "i2s", "ii2s"];
      recipe.replaceChildren(...good.filter((name) => state.about.recipes.some((r) => r.name === name)).map((name) => option(name)));
    }
    if (what.has("picture") || what.has("look")) go.disabled = !state.picture;
  });
  return [
    el("p", { class: "quiet note" }, "Finds a picture that the generator draws and that looks like yours after what was done to it."),
    field("The picture is", preset), field("Operator", operator, "as in latentopt restore; several with commas"),
    el("label", { class: "check" }, simulate, el("span", {}, "It is a good picture: do that to it first")),
    el("div", { class: "pair" }, field("Recipe", recipe), field("Steps", steps)), go,
  ];
}
