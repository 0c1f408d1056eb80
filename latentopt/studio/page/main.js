// Starts the page: connects, and brings its parts to life.

import { $, announce, complain } from "./dom.js";
import { connect, drop, on, stats } from "./link.js";
import { changed, go, keep, open, recall, redo, state, undo } from "./store.js";
import { start as library } from "./library.js";
import { start as stage } from "./stage.js";
import { start as jobs } from "./jobs.js";
import { start as tools } from "./tools.js";

const theme = localStorage.getItem("studio theme");
if (theme) document.documentElement.dataset.theme = theme;

$("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("studio theme", document.documentElement.dataset.theme);
};

on("link", (status) => {
  $("link").textContent = status;
  $("link").dataset.status = status;
});

on("hello", ({ about }) => {
  const again = JSON.stringify(state.about) === JSON.stringify(about); // the connection was lost, and is there again
  state.about = about;
  $("about").textContent = `${about.generator}, ${about.family}, ${about.width} × ${about.height}`;
  $("about").title = about.folder;
  if (!again) changed("about");
});

on("lists", ({ pictures, results }) => {
  Object.assign(state, { pictures, results });
  changed("lists");
});

on("ready", () => {
  state.ready = true;
  document.body.dataset.ready = "yes";
  changed("look", "history", "picture");
});

on("error", ({ text }) => complain(text));

on("job", ({ job }) => { // a result that this tab waits for, perhaps since before a reload
  const own = state.mine.find((other) => other.job === job.id);
  if (!own || ["waiting", "running", "stopped"].includes(job.status)) return;
  state.mine = state.mine.filter((other) => other !== own);
  keep();
  if (job.status === "failed") complain(job.note);
  else announce(`${job.title}: done`);
  if (job.status === "done" && job.made.base) arrived(own, job);
});

/** The lists with the new result come after the job: wait for them. */
function arrived(own, job) {
  const { base, commands } = job.made;
  const look = () => {
    if (commands === undefined && !state.results.some((result) => result.base === base)) return setTimeout(look, 50);
    const before = commands ? [...own.commands, ...commands] : undefined;
    open(base, own.label);
    if (before) { state.history[state.at].commands = state.commands = before; keep(); changed("look"); }
    return null;
  };
  look();
}

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
  if (event.target.matches?.("input[type=text], input[type=number], input[type=search], textarea")) return;
  event.preventDefault();
  (event.shiftKey ? redo : undo)();
});

$("undo").onclick = undo;
$("redo").onclick = redo;

recall();
library();
stage();
jobs();
tools();
connect();
window.studio = { state, stats, drop, go };
