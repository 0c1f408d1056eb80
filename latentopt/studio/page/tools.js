// The tools on the right: one panel each, of which one is open.

import { $, complain, el } from "./dom.js";
import { begun } from "./link.js";
import { keep, state } from "./store.js";
import { panel as invert } from "./invert.js";
import { panel as edit } from "./edit.js";
import { panel as drag } from "./drag.js";
import { panel as mix } from "./mix.js";
import { panel as restore } from "./restore.js";
import { panel as take } from "./take.js";

const PANELS = { Invert: invert, Edit: edit, Drag: drag, Mix: mix, Restore: restore, Export: take };

export function start() {
  for (const [name, panel] of Object.entries(PANELS)) {
    const id = name.toLowerCase();
    const tab = el("button", { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}`, onclick: () => openTab(id) }, name);
    $("tabs").append(tab);
    $("panels").append(el("div", { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": tab.id }, panel()));
  }
  $("tabs").addEventListener("keydown", (event) => {
    const tabs = [...$("tabs").children];
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const tab = tabs[(to + tabs.length) % tabs.length];
    tab.focus();
    openTab(tab.id.slice(4));
  });
  openTab("invert");
}

export function openTab(id) {
  for (const tab of $("tabs").children) {
    const chosen = tab.id === `tab-${id}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`panel-${tab.id.slice(4)}`).hidden = !chosen;
  }
  document.dispatchEvent(new CustomEvent("tab", { detail: id }));
}

/** Begin a job whose result becomes what this tab works on; `commands` come before those that it tells of itself. */
export async function work(kind, fields, label, commands = []) {
  try {
    return await begun(kind, fields, (job) => {
      state.mine = [...state.mine, { job, label, commands }];
      keep();
    });
  } catch (error) {
    if (!state.mine.some((own) => own.label === label)) complain(error.message);
    return null;
  }
}
