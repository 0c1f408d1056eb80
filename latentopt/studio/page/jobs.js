// Work that takes a while: how far it is, its loss, how long it will take; stop and go on.

import { $, announce, button, el, svg } from "./dom.js";
import { on, say } from "./link.js";
import { state } from "./store.js";
import { follow } from "./stage.js";

const cards = new Map();
const [WIDTH, HEIGHT] = [260, 56];
const QUIET = ["keep", "film", "crop", "align"]; // shown only while they are at work, or where they failed

export function start() {
  on("job", ({ job }) => show(job));
  on("progress", ({ id, step, total, left, point }) => {
    const card = cards.get(id);
    if (!card) return;
    Object.assign(card.job, { step, total, left });
    if (point) card.job.curve.push(point);
    figures(card);
  });
  on("frame", ({ job, picture }) => {
    const card = cards.get(job);
    if (!card) return;
    const old = card.picture.src;
    card.picture.alt = "as it is now";
    card.picture.src = URL.createObjectURL(picture);
    if (old) URL.revokeObjectURL(old);
  });
}

function show(job) {
  const card = cards.get(job.id) ?? made(job);
  card.job = { curve: card.job.curve ?? [], ...job, ...(job.curve ? { curve: job.curve } : {}) };
  const active = ["waiting", "running"].includes(job.status);
  if (job.status !== card.status && !QUIET.includes(job.kind)) announce(`${job.title}: ${job.status}`);
  card.status = job.status;
  card.root.dataset.status = job.status;
  card.state.textContent = job.status;
  card.note.textContent = job.note;
  card.stop.hidden = !active;
  card.again.hidden = !["stopped", "failed"].includes(job.status);
  card.close.hidden = active;
  card.root.hidden = job.status === "done" || (QUIET.includes(job.kind) && job.status !== "failed");
  if (job.status === "running" && state.mine.some((own) => own.job === job.id)) follow(job.id);
  figures(card);
}

function made(job) {
  const card = { job, state: el("span", { class: "quiet" }), note: el("p", { class: "quiet note" }),
    text: el("span", { class: "figures" }), bar: el("progress", { max: 1, value: 0, "aria-label": `${job.title}: progress` }),
    picture: el("img", { alt: "", class: "none", width: 56, height: 56 }),
    line: svg("polyline", { fill: "none", points: "" }) };
  card.stop = button("Stop", () => say("stop", { job: job.id }), { class: "plain" });
  card.again = button("Go on", () => say("again", { job: job.id }), { class: "plain" });
  card.close = button("Dismiss", () => { card.root.hidden = true; }, { class: "plain" });
  const curve = svg("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", preserveAspectRatio: "none" }, card.line);
  curve.setAttribute("aria-label", `${job.title}: the loss, on a logarithmic scale`);
  card.root = el("article", { class: "job", "data-job": job.id, "data-kind": job.kind },
    card.picture,
    el("div", { class: "body" }, el("div", { class: "row" }, el("strong", {}, job.title), card.state), card.bar, card.text, card.note),
    curve, el("div", { class: "column" }, card.stop, card.again, card.close));
  cards.set(job.id, card);
  $("jobs").prepend(card.root);
  return card;
}

function figures(card) {
  const { step, total, left, curve } = card.job;
  card.bar.value = total ? step / total : 0;
  const last = curve.at(-1);
  card.text.textContent = [
    total ? `step ${step} of ${total}` : "",
    last ? `loss ${last[1].toPrecision(3)}` : "",
    left ? `${time(left)} left` : "",
  ].filter(Boolean).join(" · ");
  plot(card);
}

function time(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function plot({ job: { curve, total }, line }) {
  if (curve.length < 2) return;
  const logs = curve.map(([, loss]) => Math.log(Math.max(loss, 1e-9)));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const range = high - low || 1;
  line.setAttribute("points", curve.map(([step], i) =>
    `${((WIDTH - 4) * step) / Math.max(total, step) + 2},${(HEIGHT - 8) * (1 - (logs[i] - low) / range) + 4}`).join(" "));
}
