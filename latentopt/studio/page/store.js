// What this tab works on: the chosen picture, the look, and its history. It survives a reload of the page.

const KEY = `studio ${location.pathname}`;
const listeners = [];

export const state = {
  about: null, // what the studio told of the generator
  pictures: [],
  results: [],
  picture: null, // key of the chosen picture
  look: null, // {base, edits, mix}
  commands: [], // that make the look's base
  history: [], // {label, picture, look, commands}
  at: -1,
  mine: [], // jobs that this tab has begun and whose results it waits for: {job, label}
  ready: false,
};

export const onchange = (listener) => listeners.push(listener);

/** Tell all parts of the page that something has changed: `what` are words such as look, lists, history. */
export function changed(...what) {
  for (const listener of listeners) listener(new Set(what));
}

export function keep() {
  const { picture, look, commands, history, at, mine } = state;
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ picture, look, commands, history, at, mine }));
  } catch { /* no room, or not allowed: the page works without */ }
}

export function recall() {
  try {
    Object.assign(state, JSON.parse(sessionStorage.getItem(KEY) ?? "{}"));
  } catch { /* damaged: begin anew */ }
}

export const plainLook = (base) => ({ base, edits: [], mix: null });

/** Something was done: it becomes the end of the history. */
export function done(label, look, commands = state.commands, picture = state.picture) {
  const entry = { label, look: structuredClone(look), commands, picture };
  state.history = [...state.history.slice(0, state.at + 1), entry].slice(-100);
  go(state.history.length - 1);
}

/** Go to a place of the history. */
export function go(at) {
  if (at < 0 || at >= state.history.length) return;
  state.at = at;
  const entry = state.history[at];
  Object.assign(state, { look: structuredClone(entry.look), commands: entry.commands, picture: entry.picture });
  keep();
  changed("look", "history", "picture");
}

export const undo = () => go(state.at - 1);
export const redo = () => go(state.at + 1);

/** A result becomes what is worked on. */
export function open(base, label = null) {
  const result = state.results.find((other) => other.base === base);
  const mine = state.history.findLast?.((entry) => entry.look?.base === base);
  done(label ?? `Opened ${result?.name ?? base}`, plainLook(base), result?.commands ?? mine?.commands ?? []);
}

export function choose(picture) {
  state.picture = picture;
  state.look = null;
  state.commands = [];
  keep();
  changed("picture", "look");
}

/** The files of a place, as addresses of this page. */
export const fileOf = (name) => `files/${name.split("/").map(encodeURIComponent).join("/")}`;
export const pictureOf = (key) => `picture/${key.split("/").map(encodeURIComponent).join("/")}`;

export const isResult = (base) => state.results.some((result) => result.base === base);
const within = (base, name) => (base === "." ? name : `${base}/${name}`);

/** The photograph behind the look, and the look without edits; null where there is none. */
export function targetOf(base) {
  const owner = state.results.filter((r) => base === r.base || base.startsWith(`${r.base}/`)).sort((a, b) => b.base.length - a.base.length)[0];
  return owner ? fileOf(within(owner.base, "target.png")) : state.picture && pictureOf(state.picture);
}

export const drawingOf = (base) => (isResult(base) ? fileOf(within(base, "proj.png")) : fileOf(base.replace(/\.safetensors$/, ".png")));
