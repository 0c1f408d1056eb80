// The socket to the studio: what is asked for, what is told, and drawings of which only the newest counts.

const handlers = new Map();
const waiting = new Map(); // ticket -> {resolve, reject}
const ended = new Map(); // job -> resolve
let socket = null;
let tickets = 0;
let numbers = 0;
let pause = 300;

export const stats = { sent: 0, answered: 0, frames: 0, dropped: 0, latency: [] };

/** Call `handler` with each message of a kind: hello, lists, job, progress, error, frame, link. */
export function on(kind, handler) {
  handlers.set(kind, [...(handlers.get(kind) ?? []), handler]);
}

const tell = (kind, value) => (handlers.get(kind) ?? []).forEach((handler) => handler(value));

export function connect() {
  socket = new WebSocket(new URL("work", document.baseURI.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { pause = 300; tell("link", "connected"); };
  socket.onmessage = (event) => (typeof event.data === "string" ? heard(JSON.parse(event.data)) : seen(event.data));
  socket.onclose = () => {
    tell("link", "reconnecting");
    for (const { reject } of waiting.values()) reject(new Error("the connection was lost"));
    waiting.clear();
    for (const slot of Object.values(slots)) { stats.answered += slot.busy; slot.busy = false; slot.next = null; }
    setTimeout(connect, pause);
    pause = Math.min(2 * pause, 5000);
  };
}

/** For tests of what happens then. */
export const drop = () => socket?.close();

function heard(message) {
  if (message.kind === "accepted" || message.kind === "lines") answered(message);
  if (message.kind === "error") {
    if (message.id !== undefined) freed(message.id);
    if (waiting.has(message.ticket)) {
      waiting.get(message.ticket).reject(new Error(message.text));
      waiting.delete(message.ticket);
      return;
    }
  }
  tell(message.kind, message);
}

function answered(message) {
  waiting.get(message.ticket)?.resolve(message);
  waiting.delete(message.ticket);
}

/** Ask for something; resolves with what answers it, rejects with why not. */
export function ask(kind, fields = {}) {
  if (socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error("not connected to the studio"));
  const ticket = ++tickets;
  socket.send(JSON.stringify({ kind, ticket, ...fields }));
  return new Promise((resolve, reject) => waiting.set(ticket, { resolve, reject }));
}

/** Say something that has no answer. */
export function say(kind, fields) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ kind, ...fields }));
}

// ---- drawings: one on its way in each slot, and the newest that waits for it

const slots = { main: { busy: false, next: null, id: 0 }, other: { busy: false, next: null, id: 0 } };

/** Draw a look; `show` gets the picture as a Blob, unless a newer look has come meanwhile. */
export function draw(look, show, slot = "main") {
  const own = slots[slot];
  if (own.next) stats.dropped += 1;
  own.next = { look, show };
  if (!own.busy) begin(slot);
}

function begin(slot) {
  const own = slots[slot];
  if (!own.next || socket?.readyState !== WebSocket.OPEN) return;
  Object.assign(own, { busy: true, id: ++numbers, show: own.next.show, at: performance.now(), next: null, look: own.next.look });
  stats.sent += 1;
  say("draw", { id: own.id, look: own.look, slot });
}

function freed(id) {
  for (const [slot, own] of Object.entries(slots)) {
    if (own.id === id && own.busy) { own.busy = false; stats.answered += 1; begin(slot); }
  }
}

function seen(buffer) {
  const view = new DataView(buffer);
  const [kind, number] = [view.getUint8(0), view.getUint32(1, true)];
  const picture = new Blob([new Uint8Array(buffer, 5)]);
  if (kind === 1) { tell("frame", { job: number, picture }); return; }
  for (const own of Object.values(slots)) {
    if (own.id === number) {
      stats.frames += 1;
      stats.latency.push(performance.now() - own.at);
      own.show(picture);
    }
  }
  freed(number);
}

// ---- jobs

/** Begin a job; resolves with what it made, rejects where it failed or was stopped. */
export async function begun(kind, fields, accepted = () => {}) {
  const { job } = await ask(kind, fields);
  accepted(job);
  return new Promise((resolve, reject) => ended.set(job, { resolve, reject }));
}

on("job", ({ job }) => {
  const own = ended.get(job.id);
  if (!own || ["waiting", "running"].includes(job.status)) return;
  if (job.status === "stopped") return; // it may go on
  ended.delete(job.id);
  if (job.status === "done") own.resolve(job.made);
  else own.reject(new Error(job.note));
});
