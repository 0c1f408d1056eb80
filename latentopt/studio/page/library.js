// Pictures to choose, to drop and to send; results to open.

import { $, announce, complain, el } from "./dom.js";
import { changed, choose, drawingOf, onchange, open, pictureOf, state } from "./store.js";

const nameOf = (key) => key.split("/").pop();

export function start() {
  const input = $("file");
  const drop = $("drop");
  input.onchange = () => { send([...input.files]); input.value = ""; };
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    send([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) send(files);
  });
  onchange((what) => {
    if (what.has("about") || what.has("lists") || what.has("picture")) pictures();
    if (what.has("lists") || what.has("look")) results();
  });
}

async function send(files) {
  for (const file of files.slice(0, 20)) {
    $("drop").classList.add("busy");
    try {
      const answer = await fetch(`pictures/${encodeURIComponent(file.name || "pasted.png")}`, { method: "POST", body: file });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error);
      announce(`${nameOf(told.picture)} is here`);
      if (!state.pictures.includes(told.picture)) { state.pictures = [told.picture, ...state.pictures]; changed("lists"); }
      choose(told.picture);
    } catch (error) {
      complain(error instanceof TypeError ? `${file.name}: could not be sent; it may be too large (30 MB)` : error.message);
    }
    $("drop").classList.remove("busy");
  }
}

function pictures() {
  const all = [...state.pictures, ...(state.about?.samples ?? [])];
  $("pictures").replaceChildren(...all.map((key) =>
    el("li", {}, el("button", {
      type: "button", class: "thumb", title: nameOf(key), "aria-pressed": key === state.picture ? "true" : "false",
      "data-picture": key, onclick: () => choose(key),
    }, el("img", { src: pictureOf(key), alt: nameOf(key), loading: "lazy", width: 56, height: 56 })))));
}

const FIGURES = { psnr: ["PSNR", 1, " dB"], perceptual: ["distance", 3, ""] };

export function figures(result) {
  return Object.entries(FIGURES)
    .filter(([name]) => typeof result.figures[name] === "number")
    .map(([name, [title, digits, unit]]) => `${title} ${result.figures[name].toFixed(digits)}${unit}`)
    .join(" · ");
}

function results() {
  $("noresults").hidden = state.results.length > 0;
  $("results").replaceChildren(...state.results.map((result) =>
    el("li", {}, el("button", {
      type: "button", class: "result", "aria-current": state.look?.base === result.base ? "true" : null,
      "data-base": result.base, onclick: () => open(result.base),
    },
    el("img", { src: `${drawingOf(result.base)}?${result.seconds}`, alt: "", width: 44, height: 44, loading: "lazy" }),
    el("span", {}, el("strong", {}, result.name), el("span", { class: "quiet" }, figures(result) || result.recipe))))));
}
