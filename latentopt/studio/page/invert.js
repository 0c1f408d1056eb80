// Inverting the chosen picture: cut it, choose a recipe, see it converge; compare with a second recipe; tune, refine.

import { button, complain, el, field, option } from "./dom.js";
import { onchange, state } from "./store.js";
import { look } from "./stage.js";
import { work } from "./tools.js";
import { cropper } from "./crop.js";

const FIRST = "ii2s";
const CLIPS = [0.5, 1, 1.5, 2, 3, 5];

export function panel() {
  const recipe = el("select", { id: "recipe" });
  const about = el("p", { class: "quiet note", id: "about-recipe" });
  const steps = el("input", { type: "number", id: "steps", min: 1, max: 100000, step: 1 });
  const seed = el("input", { type: "number", id: "seed", min: 0, value: 0, step: 1 });
  const terms = el("select", { id: "terms" }, option("", "the recipe's own"), option("perceptual=1,l2=1"), option("l2=1", "l2=1 (no network needed)"));
  const fit = el("select", { id: "fit" }, option("crop", "cut out the middle"), option("pad", "pad with white"), option("stretch"));
  const dial = el("input", { type: "range", id: "dial", min: 0, max: CLIPS.length - 1, step: 1, list: "", "aria-describedby": "dial-says" });
  const dialSays = el("output", { id: "dial-says", class: "quiet" });
  const dialField = el("div", { class: "field" }, el("label", { class: "name", for: "dial" }, "Editability ↔ likeness"), dial, dialSays);
  const second = el("select", { id: "second" });
  const go = button("Invert", () => invert(recipe.value), { id: "invert", class: "main" });
  const both = button("Compare the two", compare, { id: "compare" });
  let turned = false;

  const known = () => state.about.recipes.find((r) => r.name === recipe.value);

  function invert(name, plain = false) {
    const asked = { picture: state.picture, recipe: name, fit: fit.value, seed: Number(seed.value) || 0 };
    if (steps.value) asked.steps = Number(steps.value);
    if (terms.value) asked.terms = terms.value;
    if (!plain && turned && !dialField.hidden) asked.clip = CLIPS[dial.value];
    if (!state.picture) { complain("choose a picture first"); return Promise.resolve(null); }
    return work("invert", asked, `Inverted by ${name}${asked.clip ? `, clip ${asked.clip}` : ""}`);
  }

  async function compare() {
    const first = invert(second.value, true);
    const other = await first.then(async (made) => ({ made, main: await invert(recipe.value) }));
    const shown = () => (state.look?.base === other.main.base ? look("pair", other.made.base) : setTimeout(shown, 50));
    if (other.made && other.main) shown();
  }

  function shown() {
    const chosen = known();
    if (!chosen) return;
    about.textContent = `${chosen.about} ${chosen.source ? `(${chosen.source})` : ""}`;
    steps.placeholder = String(chosen.steps);
    dialField.hidden = chosen.clip === null;
    turned = false;
    if (chosen.clip !== null) dial.value = String(CLIPS.indexOf(chosen.clip));
    says();
  }

  function says() {
    const clip = CLIPS[dial.value];
    dialSays.textContent = `codes within ${clip} standard deviations of P-norm+${turned ? "" : " (the recipe's own)"}; ` +
      (clip < 2 ? "edits answer better" : clip > 2 ? "nearer to the picture" : "balanced");
  }

  recipe.onchange = shown;
  dial.oninput = () => { turned = true; says(); };
  onchange((what) => {
    if (what.has("about")) {
      const names = state.about.recipes.filter((r) => r.inverts && r.steps + (r.name === "encode") > 0);
      const sorted = [...names.filter((r) => !r.tunes), ...names.filter((r) => r.tunes)];
      recipe.replaceChildren(...sorted.map((r) => option(r.name, r.tunes ? `${r.name} (and tunes)` : r.name)));
      second.replaceChildren(...sorted.map((r) => option(r.name)));
      recipe.value = FIRST;
      second.value = "hybrid-e4e";
      shown();
    }
    if (what.has("picture") || what.has("look")) {
      go.disabled = both.disabled = !state.picture;
      chosen.textContent = state.picture ? state.picture.split("/").pop() : "none chosen";
    }
  });
  const chosen = el("strong", {}, "none chosen");
  return [
    el("p", { class: "row" }, el("span", { class: "quiet" }, "Picture"), chosen, el("span", { class: "grow" }), cropper()),
    field("Recipe", recipe), about, dialField,
    el("div", { class: "pair" }, field("Steps", steps), field("Seed", seed)),
    el("details", {}, el("summary", {}, "More"), field("A picture of another shape", fit), field("Loss", terms)),
    go,
    el("details", {}, el("summary", {}, "Compare two methods"), field("Second recipe", second), both,
      el("p", { class: "quiet note" }, "Both are run, and shown side by side; sliders then move both.")),
    improving(),
  ];
}

/** Tuning the generator to the result, and refining it. */
function improving() {
  const method = el("select", { id: "method" });
  const steps = el("input", { type: "number", id: "tune-steps", min: 1, max: 100000, "aria-label": "Steps of the tuning" });
  const tune = button("Tune", () => {
    const asked = { result: state.look.base, method: method.value };
    if (steps.value) asked.steps = Number(steps.value);
    work("tune", asked, `Tuned by ${method.value}`);
  }, { id: "tune" });
  const refiner = el("select", { id: "refiner", "aria-label": "Refiner" });
  const refine = button("Refine", () => work("refine", { result: state.look.base, refiner: refiner.value }, `Refined by ${refiner.value}`), { id: "refine" });
  const lacking = el("p", { class: "quiet note" }, "No refiner of this generator is at hand; latentopt train refiner makes one.");
  const box = el("fieldset", { id: "improve" }, el("legend", {}, "Improve the result"),
    el("p", { class: "quiet note" }, "Tuning changes the generator's weights for this picture; refining adds to its features."),
    el("div", { class: "pair" }, field("Method", method), field("Steps", steps)), tune,
    el("div", { class: "row refining" }, refiner, refine), lacking);
  onchange((what) => {
    if (what.has("about")) {
      method.replaceChildren(...state.about.recipes.filter((r) => r.tunes).map((r) => option(r.name)));
      method.value = "wrangan";
      refiner.replaceChildren(...state.about.refiners.map((name) => option(name)));
      lacking.hidden = state.about.refiners.length > 0;
      refine.parentElement.hidden = !lacking.hidden;
    }
    if (what.has("look") || what.has("lists")) {
      box.disabled = !state.results.some((result) => result.base === state.look?.base);
    }
  });
  return box;
}
