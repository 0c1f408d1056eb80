// Dragging: points on the picture and where they shall be, and a painted mask of what may move.

import { button, el, field, svg } from "./dom.js";
import { onchange, state } from "./store.js";
import { layer } from "./stage.js";
import { work } from "./tools.js";

let points = []; // [x, y, to x, to y] in pixels of the drawn picture
let painting = false;
let painted = false;
let open = false;

const lines = svg("svg", { class: "points-layer", "aria-hidden": "true" });
const mask = el("canvas", { class: "mask", "aria-hidden": "true" });

export function panel() {
  const list = el("ol", { class: "points", "aria-label": "Points" });
  const brush = el("input", { type: "range", id: "brush", min: 2, max: 40, value: 12, "aria-label": "Size of the brush" });
  const paint = button("Paint what may move", () => { painting = !painting; paint.setAttribute("aria-pressed", String(painting)); },
    { id: "paint", "aria-pressed": "false" });
  const steps = el("input", { type: "number", id: "drag-steps", min: 1, max: 5000 });
  const go = button("Drag", drag, { id: "drag", class: "main" });
  const clear = button("Clear", () => { points = []; wipeMask(); shown(); }, { class: "plain", id: "drag-clear" });
  const add = button("Add a point", () => {
    const [x, y] = [(state.about.width - 1) / 2, (state.about.height - 1) / 2];
    points.push([x, y, x, y]);
    shown();
  }, { id: "add-point" });
  layer.append(mask, lines);

  function shown() {
    const { width, height } = state.about;
    lines.setAttribute("viewBox", `-0.5 -0.5 ${width} ${height}`);
    const radius = width / 90;
    lines.replaceChildren(...points.flatMap(([x, y, a, b]) => [
      svg("line", { x1: x, y1: y, x2: a, y2: b, "stroke-width": radius / 1.6 }),
      svg("circle", { cx: x, cy: y, r: radius, class: "from" }), svg("circle", { cx: a, cy: b, r: radius * 1.25, class: "to" })]));
    list.replaceChildren(...points.map((point, i) => el("li", {}, number(i, 0, "x"), number(i, 1, "y"), el("span", {}, "→"),
      number(i, 2, "to x"), number(i, 3, "to y"),
      button("×", () => { points.splice(i, 1); shown(); }, { class: "tiny", "aria-label": `Remove point ${i + 1}` }))));
    enable();
  }

  const number = (i, k, name) => el("input", { type: "number", step: 0.5, value: points[i][k], "aria-label": `Point ${i + 1}: ${name}`,
    onchange: (event) => { points[i][k] = clamp(Number(event.target.value), k); shown(); } });

  const clamp = (value, k) => Math.min((k % 2 ? state.about.height : state.about.width) - 1, Math.max(0, Math.round(value * 10) / 10));

  function place(event) {
    const box = layer.getBoundingClientRect();
    return [clamp(((event.clientX - box.left) / box.width) * state.about.width - 0.5, 0),
      clamp(((event.clientY - box.top) / box.height) * state.about.height - 0.5, 1)];
  }

  function stroke(event) {
    const [x, y] = place(event);
    const paper = mask.getContext("2d");
    paper.fillStyle = "white";
    paper.beginPath();
    paper.arc(x + 0.5, y + 0.5, (Number(brush.value) / 100) * state.about.width, 0, 7);
    paper.fill();
    painted = true;
    enable();
  }

  layer.addEventListener("pointerdown", (event) => {
    if (!layer.classList.contains("busy")) return;
    event.preventDefault();
    layer.setPointerCapture(event.pointerId);
    if (painting) stroke(event);
    else { points.push([...place(event), ...place(event)]); shown(); }
  });
  layer.addEventListener("pointermove", (event) => {
    if (!layer.classList.contains("busy") || !event.buttons || !layer.hasPointerCapture(event.pointerId)) return;
    if (painting) stroke(event);
    else if (points.length) { points.at(-1).splice(2, 2, ...place(event)); shown(); }
  });

  function wipeMask() {
    Object.assign(mask, { width: state.about.width, height: state.about.height });
    painted = false;
  }

  function maskText() {
    if (!painted) return "";
    const sheet = el("canvas", { width: mask.width, height: mask.height });
    const paper = sheet.getContext("2d");
    paper.fillRect(0, 0, sheet.width, sheet.height);
    paper.drawImage(mask, 0, 0);
    return sheet.toDataURL("image/png").split(",")[1];
  }

  async function drag() {
    const asked = { look: state.look, points, mask: maskText() };
    if (steps.value) asked.steps = Number(steps.value);
    const before = state.commands;
    points = [];
    wipeMask();
    shown();
    await work("drag", asked, `Dragged ${asked.points.length} point${asked.points.length === 1 ? "" : "s"}`, before);
  }

  function enable() {
    layer.classList.toggle("busy", open && Boolean(state.look));
    layer.hidden = !(open && state.look);
    go.disabled = !state.look || points.length === 0;
    add.disabled = paint.disabled = !state.look;
    clear.disabled = points.length === 0 && !painted;
  }

  document.addEventListener("tab", ({ detail }) => { open = detail === "drag"; enable(); });
  onchange((what) => {
    if (what.has("about")) { wipeMask(); shown(); }
    if (what.has("look")) enable();
  });
  return [
    el("p", { class: "quiet note" }, "Press on the picture where something is, and pull it to where it shall be. A point that is not pulled stays where it is."),
    list, el("div", { class: "row wrap" }, add, clear),
    el("div", { class: "row" }, paint, brush),
    el("p", { class: "quiet note" }, "Without a painted part, everything may move."),
    field("Steps at most", steps), go,
  ];
}
