// Cutting a picture by hand: a box over it, moved and sized with the pointer or with sliders.

import { button, complain, el, field } from "./dom.js";
import { begun } from "./link.js";
import { choose, onchange, pictureOf, state } from "./store.js";

export function cropper() {
  const image = el("img", { alt: "the picture to cut", draggable: false });
  const box = el("div", { class: "box" });
  const area = el("div", { class: "cropping" }, image, box);
  const slider = (id, name) => el("input", { type: "range", id, min: 0, max: 1, step: 0.005, "aria-label": name });
  const [x, y, size] = [slider("crop-x", "Left to right"), slider("crop-y", "Top to bottom"), slider("crop-size", "Size")];
  size.min = "0.1";
  const cut = button("Use this part", use, { class: "main", id: "crop-use" });
  const dialog = el("dialog", { id: "crop", "aria-label": "Crop the picture" },
    el("h2", {}, "Crop the picture"), area,
    field("Left to right", x), field("Top to bottom", y), field("Size", size),
    el("div", { class: "row" }, cut, button("Cancel", () => dialog.close(), { class: "plain" })));
  document.body.append(dialog);
  const opener = button("Crop", open, { id: "crop-open", class: "plain" });

  function open() {
    image.src = pictureOf(state.picture);
    [x.value, y.value, size.value] = ["0.5", "0.5", "0.8"];
    image.onload = place;
    dialog.showModal();
  }

  /** The box in shares of the sides: of the generator's shape, as large as `size` says. */
  function found() {
    const shape = state.about.width / state.about.height;
    const ratio = image.naturalWidth / image.naturalHeight || 1;
    let [w, h] = [Number(size.value), (Number(size.value) * ratio) / shape];
    if (h > Number(size.value)) [w, h] = [(Number(size.value) * shape) / ratio, Number(size.value)];
    const [left, top] = [Number(x.value) * (1 - w), Number(y.value) * (1 - h)];
    return [left, top, left + w, top + h];
  }

  function place() {
    const [left, top, right, bottom] = found().map((share) => `${100 * share}%`);
    box.style.left = left;
    box.style.top = top;
    box.style.right = `calc(100% - ${right})`;
    box.style.bottom = `calc(100% - ${bottom})`;
  }

  function drag(event) {
    if (!event.buttons) return;
    const [left, top, right, bottom] = found();
    const rect = image.getBoundingClientRect();
    const [w, h] = [right - left, bottom - top];
    const share = (at, side, length) => Math.min(1, Math.max(0, (at - side / 2) / Math.max(1 - length, 1e-6)));
    x.value = String(share((event.clientX - rect.left) / rect.width, w, w));
    y.value = String(share((event.clientY - rect.top) / rect.height, h, h));
    place();
  }

  async function use() {
    dialog.close();
    try {
      const made = await begun("crop", { picture: state.picture, box: found() });
      choose(made.picture);
    } catch (error) {
      complain(error.message);
    }
  }

  for (const input of [x, y, size]) input.oninput = place;
  area.addEventListener("pointerdown", drag);
  area.addEventListener("pointermove", drag);
  area.addEventListener("wheel", (event) => {
    event.preventDefault();
    size.value = String(Number(size.value) - Math.sign(event.deltaY) * 0.03);
    place();
  }, { passive: false });
  const faces = button("Faces", find, { id: "faces", class: "plain", title: "Cut the faces out, as latentopt align does" });

  async function find() {
    faces.disabled = true;
    try {
      const made = await begun("align", { picture: state.picture });
      choose(made.pictures[0]);
    } catch (error) {
      complain(error.message);
    }
    faces.disabled = false;
  }

  onchange((what) => {
    if (what.has("picture") || what.has("look")) opener.disabled = faces.disabled = !state.picture;
  });
  return [faces, opener];
}
