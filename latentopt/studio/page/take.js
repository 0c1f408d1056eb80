// Taking it away: picture, latents, weights, a film, and the command lines that make the same.

import { announce, button, complain, el } from "./dom.js";
import { ask, begun } from "./link.js";
import { fileOf, onchange, state } from "./store.js";

const KINDS = [[/delta\.safetensors$/, "Weights (delta)"], [/\.safetensors$/, "Latents (safetensors)"], [/\.npz$/, "Latents (NVIDIA's .npz)"],
  [/\.png$/, "Picture (PNG)"], [/\.toml$/, "Recipe (TOML)"], [/\.(webp|mp4)$/, "Film"]];

export function panel() {
  const lines = el("pre", { id: "lines", tabindex: 0, "aria-label": "Commands that make the same" });
  const files = el("ul", { id: "files", class: "files" });
  const save = button("Save the files", write, { id: "save", class: "main" });
  const film = button("Film the edits", filmed, { id: "film" });
  const copy = button("Copy", async () => {
    try { await navigator.clipboard.writeText(lines.textContent); announce("copied"); copy.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(lines); }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }, { class: "plain", id: "copy" });
  const where = el("p", { class: "quiet note" });
  let timer = 0;

  async function write() {
    try {
      const made = await begun("keep", { look: state.look });
      shown(made.files);
      announce("saved");
    } catch (error) { complain(error.message); }
  }

  async function filmed() {
    film.disabled = true;
    try { shown((await begun("film", { look: state.look })).files); } catch (error) { complain(error.message); }
    film.disabled = !state.look?.edits.length;
  }

  function shown(names) {
    const kept = [...files.children].filter((item) => !names.includes(item.dataset.name));
    files.replaceChildren(...names.map((name) => el("li", { "data-name": name },
      el("a", { href: `${fileOf(name)}?download`, download: name.split("/").pop() }, KINDS.find(([kind]) => kind.test(name))?.[1] ?? "File"),
      el("span", { class: "quiet" }, name))), ...kept);
  }

  async function tell() {
    if (!state.look) return;
    const look = JSON.stringify(state.look);
    try {
      const { commands } = await ask("lines", { look: state.look });
      if (JSON.stringify(state.look) === look) lines.textContent = [...state.commands, ...commands].join("\n");
    } catch { /* the connection was lost; the next change asks again */ }
  }

  onchange((what) => {
    if (what.has("about")) where.textContent = `Files lie in ${state.about.folder}, as the command line's do.`;
    if (!what.has("look")) return;
    save.disabled = !state.look;
    film.disabled = !state.look?.edits.length;
    files.replaceChildren();
    lines.textContent = state.look ? "" : "Nothing yet.";
    clearTimeout(timer);
    timer = setTimeout(tell, 60);
  });
  return [
    el("div", { class: "row wrap" }, save, film), where, files,
    el("div", { class: "row" }, el("h2", {}, "The same from the command line"), el("span", { class: "grow" }), copy), lines,
  ];
}
