// Shared by the pages of agents and tasks: words, and parts of pages.
"use strict";

const $ = (id) => document.getElementById(id);
const ME = document.documentElement.dataset.user;
const HUB = PREFIX.replace(/services\/agents\/$/, "");
const MANAGES = document.getElementById("content").querySelector("[data-manage=yes]") !== null;

const TASK_STATES = ["executing", "available", "scheduled", "retryable", "completed", "discarded", "cancelled"];
const FINAL = ["completed", "cancelled", "discarded"];
Object.assign(STATUS_KIND, {
  scheduled: "hollow", available: "warn hollow", retryable: "warn", cancelling: "warn", cancelled: "hollow",
  active: "good", suspended: "warn", retired: "hollow",
});

/** Fixed reasons in words, for where there is no sentence. */
const REASONS = {
  submitted: "submitted", not_before: "waits for its time", dependencies: "waits for other tasks", due: "may start",
  claimed: "an attempt began", completed: "completed", cancelled: "cancelled", retried: "asked for once more",
  handed_over: "handed over", moved: "goes on in another server", tidied: "its files made room", node_lost: "its node is gone", server_lost: "its server is gone",
  start_failed: "its server did not start", kernel_died: "its kernel died", output_lost: "its output was lost",
  quota: "the agent's limits are reached", internal: "a fault of the farm", cell_error: "a cell failed",
  cell_timeout: "a cell took too long", run_timeout: "it took too long", invalid_notebook: "the notebook cannot be used",
  kernel_not_found: "there is no such kernel", refused: "no node can ever take it",
  dependency_failed: "a task before it failed", attempts_exhausted: "there were enough attempts",
  agent_suspended: "the agent is suspended", agent_retired: "the agent is retired",
};
function because(thing) {
  const text = thing.detail || REASONS[thing.reason] || thing.reason || "";
  return text === thing.state ? "" : text;
}

const plural = (number, word) => `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
const agentUrl = (name) => `${PREFIX}agents/${encodeURIComponent(name)}`;
const taskUrl = (id) => `${PREFIX}tasks/${id}`;
const labUrl = (agent, server) => `${HUB}user/${encodeURIComponent(agent)}/${server ? `${encodeURIComponent(server)}/` : ""}lab`;
const taskName = (task) => task.request.name || (task.request.path || "").split("/").pop() || `task ${task.id.slice(0, 8)}`;
const taskState = (task) => (task.ending && task.state === "executing" ? "cancelling" : task.state);
const since = (time) => el("span", { "data-since": time, title: format.time(time) }, format.since(time));

/** Seconds, finely where they are few: "0.4 s", "12 s", "5 min". */
function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds < 10 ? `${seconds.toFixed(1)} s` : format.age(seconds);
}

/** What a task's server needs, in words. */
function resources(options) {
  const parts = [];
  if (options.gpus) parts.push(`${plural(options.gpus, "GPU")}${options.gpu_model ? ` ${options.gpu_model}` : ""}`);
  if (options.gpu_memory_bytes) parts.push(`${format.bytes(options.gpu_memory_bytes)} each`);
  if (options.cpus) parts.push(plural(options.cpus, "core"));
  if (options.memory_bytes) parts.push(`${format.bytes(options.memory_bytes)} memory`);
  if (options.kernel) parts.push(`kernel ${options.kernel}`);
  for (const [key, value] of Object.entries(options.labels || {})) parts.push(`${key}=${value}`);
  if (options.node) parts.push(`node ${options.node}`);
  return parts.join(", ") || "any node";
}

/** A cell of a table that becomes a list where it is narrow. */
function cell(label, attrs, ...children) {
  return el("td", { "data-label": label, ...attrs }, el("div", {}, ...children));
}

/** Fill the body of a table; `nothing` is said when there are no rows. */
function fillRows(body, rows, columns, nothing) {
  body.replaceChildren(...(rows.length ? rows : [el("tr", {}, el("td", { class: "empty", colspan: columns }, nothing))]));
}

/** Draw `make()` into `place` only when `value` is another than before: what has the focus or is clicked stays. */
const drawnFrom = new WeakMap();
function drawWhenNew(place, value, make) {
  const key = JSON.stringify(value);
  if (drawnFrom.get(place) === key) return;
  drawnFrom.set(place, key);
  const focused = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  place.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
  if (focused) [...place.querySelectorAll("button, a, summary")].find((one) => one.textContent === focused)?.focus();
}

function figure(name, value, rest) {
  return el("div", { class: "figure" }, el("dt", {}, name), el("dd", {}, value, el("small", {}, rest || "\u00a0")));
}

/** A list of facts: pairs of a word and what it is; pairs without anything are left out. */
function facts(pairs) {
  return pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without https there is no clipboard for pages
    const field = el("textarea", { class: "off-screen", readonly: true }, text);
    (button.closest("dialog") || document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

/** A line of text to be copied, as a command. */
function copyable(text) {
  const button = el("button", { type: "button", "aria-label": "Copy this" }, "Copy");
  button.onclick = () => copyText(button, text);
  return el("div", { class: "copyable" }, el("pre", { tabindex: "0" }, text), button);
}

setInterval(() => {
  for (const place of document.querySelectorAll("[data-since]")) place.textContent = format.since(Number(place.dataset.since));
}, 5000);
