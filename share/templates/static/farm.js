// The farm page: nodes, waiting line and leases, kept current by events.
"use strict";

const view = { nodes: new Map(), leases: new Map(), queue: [], loaded: false };
const drawn = new Map(); // node → what its card was drawn from, so that unchanged cards are left alone
const $ = (id) => document.getElementById(id);
const manage = () => $("nodes").dataset.manage === "yes";

function byName(a, b) { return a.name.localeCompare(b.name, undefined, { numeric: true }); }

// ---- figures ----

function figure(name, value, rest) {
  return el("div", { class: "figure" }, el("dt", {}, name), el("dd", {}, value, el("small", {}, rest || "\u00a0")));
}

function drawFigures() {
  const nodes = [...view.nodes.values()];
  const gpus = nodes.flatMap((node) => (node.telemetry ? node.telemetry.gpus : []));
  const busy = gpus.filter((gpu) => gpu.leased).length;
  const simulated = gpus.filter((gpu) => gpu.simulated).length;
  const up = nodes.filter((node) => node.telemetry && node.state === "ready");
  const cores = up.reduce((sum, node) => sum + node.telemetry.cpus, 0);
  const used = up.reduce((sum, node) => sum + node.telemetry.cpus * (node.telemetry.cpu_utilization_ratio || 0), 0);
  const memory = up.reduce((sum, node) => sum + node.telemetry.memory_total_bytes, 0);
  const free = up.reduce((sum, node) => sum + node.telemetry.memory_available_bytes, 0);
  const servers = nodes.length ? [...view.leases.values()].filter((lease) => lease.state === "running").length : 0;
  $("figures").replaceChildren(
    figure("Nodes eligible", nodes.filter((node) => node.eligible).length, `of ${nodes.length}`),
    figure("GPUs leased", busy, `of ${gpus.length}${simulated ? `, ${simulated === gpus.length ? "all" : simulated} simulated` : ""}`),
    figure("CPU", cores ? format.ratio(used / cores) : "–", cores ? `of ${cores} cores` : ""),
    figure("Memory", memory ? format.ratio(1 - free / memory) : "–", memory ? `of ${format.bytes(memory)}` : ""),
    figure("Servers", servers, "running"),
    figure("Waiting", view.queue.length, view.queue.length === 1 ? "request" : "requests"));
}

// ---- nodes ----

/** "2.6 / 23.5 GiB": both in the unit of the larger. */
function pair(used, total) {
  if (used === null) return format.bytes(total);
  const [, unit] = format.bytes(total).split(" ");
  const power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].indexOf(unit);
  return `${(used / 1024 ** power).toFixed(1)} / ${format.bytes(total)}`;
}

function gpuRow(gpu) {
  const use = [format.ratio(gpu.utilization_ratio)];
  if (gpu.power_watts !== null) use.push(`${Math.round(gpu.power_watts)} W`);
  if (gpu.temperature_celsius !== null) use.push(`${Math.round(gpu.temperature_celsius)} °C`);
  const holder = gpu.owner ? el("strong", { title: `leased to ${gpu.owner}` }, gpu.owner)
    : gpu.leased ? el("span", { class: "muted" }, "leased")
      : gpu.foreign_pids.length ? el("span", { class: "warn" }, "not the farm's") : el("span", { class: "good" }, "free");
  return el("div", { class: "gpu", title: gpu.uuid },
    el("div", { class: "gpu-head small" }, el("span", { class: "gpu-name" }, gpu.name),
      gpu.simulated ? el("span", { class: "tag simulated" }, "simulated") : null, el("span", { class: "push holder" }, holder)),
    bar("Busy", gpu.utilization_ratio, use.join(" · ")),
    gpu.memory_total_bytes === null ? null
      : bar("Memory", (gpu.memory_used_bytes || 0) / gpu.memory_total_bytes, pair(gpu.memory_used_bytes, gpu.memory_total_bytes)),
    gpu.foreign_pids.length
      ? el("p", { class: "note warn small" }, `Used by processes from outside the farm: pid ${gpu.foreign_pids.join(", ")}`) : null);
}

function nodeBody(node) {
  const report = node.telemetry;
  if (!report) return [el("p", { class: "muted small" }, node.state === "ready" ? "Waiting for the first report." : "No report yet.")];
  const used = report.memory_total_bytes - report.memory_available_bytes;
  const body = [
    bar("CPU", report.cpu_utilization_ratio, `${format.ratio(report.cpu_utilization_ratio)} of ${report.cpus}`, `load ${report.load1.toFixed(2)}`),
    bar("Memory", used / report.memory_total_bytes, pair(used, report.memory_total_bytes), "in use", true),
  ];
  if (report.gpu_health === "hanging" || report.gpu_health === "failed") {
    body.push(el("p", { class: "note bad small" }, `GPUs ${report.gpu_health}: ${report.gpu_error || ""}`));
  }
  body.push(...report.gpus.map(gpuRow));
  if (!report.gpus.length && report.gpu_health === "absent") body.push(el("p", { class: "muted small" }, "No GPU."));
  return body;
}

const LIMITERS = { systemd: "systemd", cgroup2: "cgroup v2", cgroup1: "cgroup v1", prlimit: "each process by itself" };

/** What keeps the node's servers apart, in one line; its title says what is missing. */
function isolation(node) {
  const enforcement = node.facts ? node.facts.enforcement : null;
  if (!enforcement || !node.isolation) return null;
  const parts = [
    `Limits: ${LIMITERS[enforcement.limits] || enforcement.limits}`,
    `accounts: ${node.isolation.account ? "one per user" : "one for all"}`,
    `sandbox: ${node.isolation.sandbox}`,
  ];
  return el("div", { class: "isolation", title: enforcement.missing.join(" ") }, parts.join(" · "));
}

/** The kernels of the node's servers; what people call them, or why they are not known, is in the title. */
function kernels(node) {
  const known = node.kernels || [];
  const title = [...known.map((each) => `${each.name}: ${each.display_name || each.language}`), node.kernels_error].filter(Boolean).join("\n");
  const names = known.map((each) => each.name).join(", ") || "none";
  const text = node.kernels ? `Kernels: ${names}` : node.kernels_error ? "Kernels: it cannot tell" : "Kernels: not known yet";
  return el("div", { class: node.kernels_error ? "kernels warn" : "kernels", title }, text);
}

function nodeNotes(node) {
  const notes = [];
  const marks = [["Draining", node.drain], ["Cordoned", node.cordon]];
  for (const [word, mark] of marks) {
    if (!mark) continue;
    const until = mark.deadline_at ? `, what is left stops ${format.time(mark.deadline_at)}` : "";
    notes.push(el("p", { class: "note warn small" }, `${word} by ${mark.by}${mark.reason ? `: ${mark.reason}` : ""}${until}`));
  }
  if (node.state !== "ready") notes.push(el("p", { class: `note ${node.state === "down" ? "bad" : "warn"} small` }, node.detail));
  return notes;
}

function nodeButtons(node) {
  if (!manage()) return null;
  const buttons = node.cordon || node.drain
    ? [el("button", { onclick: () => act(node.name, "uncordon", {}) }, "Uncordon")]
    : [el("button", { onclick: () => ask(node.name, "cordon") }, "Cordon…"), el("button", { onclick: () => ask(node.name, "drain") }, "Drain…")];
  return el("div", { class: "row actions" }, buttons);
}

function card(node) {
  const spec = node.spec;
  const labels = Object.entries(spec.labels).map(([key, value]) => el("span", { class: "tag" }, `${key}=${value}`));
  const skew = Math.abs(node.clock_skew_seconds || 0) > 2 ? el("p", { class: "note warn small" }, `Its clock is ${Math.round(Math.abs(node.clock_skew_seconds))} s off.`) : null;
  return el("article", { class: "card node", "aria-label": `node ${node.name}` },
    el("div", { class: "row between" }, el("h3", {}, node.name), status(node.status, `since ${format.time(node.since_at)}`)),
    el("div", { class: "row meta" },
      el("span", { class: "muted small" }, spec.role === "gpuserver" ? "GPU server" : "microserver", " · ", spec.host), labels),
    nodeNotes(node), skew, nodeBody(node), el("div", { class: "muted small" }, kernels(node), isolation(node)), nodeButtons(node));
}

function drawNodes() {
  const place = $("nodes");
  const nodes = [...view.nodes.values()].sort(byName);
  if (!nodes.length) {
    drawn.clear();
    place.replaceChildren(el("div", { class: "card empty" },
      el("h3", {}, "There are no nodes yet"),
      el("p", {}, "Add the first one from the Hub's machine; it shows the node's host key and asks before it trusts it:"),
      el("pre", {}, "agentfarm nodes add gpu01 10.0.0.11"),
      el("p", { class: "muted small" }, "Or list nodes in jupyterhub_config.py as c.Inventory.nodes. They appear here as soon as they are reached.")));
    return;
  }
  const cards = nodes.map((node) => {
    const key = JSON.stringify([node, manage()]);
    const known = drawn.get(node.name);
    if (known && known.key === key) return known.card;
    const made = card(node);
    const focused = known && known.card.contains(document.activeElement) ? document.activeElement.textContent : null;
    drawn.set(node.name, { key, card: made, focused });
    return made;
  });
  for (const name of drawn.keys()) if (!view.nodes.has(name)) drawn.delete(name);
  if (cards.length !== place.children.length || cards.some((made, index) => place.children[index] !== made)) place.replaceChildren(...cards);
  for (const entry of drawn.values()) { // a redrawn card keeps the keyboard's focus
    if (entry.focused) [...entry.card.querySelectorAll("button")].find((button) => button.textContent === entry.focused)?.focus();
    entry.focused = null;
  }
}

// ---- line and leases ----

function wanted(options) {
  const parts = [];
  if (options.node) parts.push(`node ${options.node}`);
  if (options.gpus) parts.push(`${options.gpus} GPU${options.gpus > 1 ? "s" : ""}${options.gpu_model ? ` ${options.gpu_model}` : ""}`);
  if (options.gpu_memory_bytes) parts.push(`${format.bytes(options.gpu_memory_bytes)} each`);
  if (options.cpus) parts.push(`${options.cpus} ${options.cpus === 1 ? "core" : "cores"}`);
  if (options.memory_bytes) parts.push(`${format.bytes(options.memory_bytes)} of memory`);
  if (options.kernel) parts.push(`kernel ${options.kernel}`);
  for (const [key, value] of Object.entries(options.labels)) parts.push(`${key}=${value}`);
  if (options.priority) parts.push(`priority ${options.priority}`);
  return parts.join(", ") || "any node";
}

function rows(place, list, columns, nothing) {
  place.replaceChildren(...(list.length ? list : [el("tr", {}, el("td", { class: "empty", colspan: columns }, nothing))]));
}

let lineDrawn = null;
function drawLine() {
  const key = JSON.stringify(view.queue);
  if (key === lineDrawn) return; // nodes report all the time: a button that is replaced under the pointer loses its click
  lineDrawn = key;
  rows($("line"), view.queue.map((item) => el("tr", {},
    el("td", { class: "number", "data-label": "Position" }, item.position ?? "–"),
    el("td", { "data-label": "Owner" }, item.owner ?? el("span", { class: "muted" }, "another user")),
    el("td", { "data-label": "Asks for" }, wanted(item.options)),
    el("td", { "data-label": "Waits for" }, item.detail),
    el("td", { class: "number", "data-label": "Since", "data-since": item.created_at }, format.since(item.created_at)),
    el("td", {}, item.may_cancel ? el("button", { onclick: () => cancel(item), "aria-label": `Cancel the request of ${item.owner}` }, "Cancel") : null))), 6, "Nobody waits.");
}

async function cancel(item) {
  if (!confirm(`Take the request of ${item.owner} out of the line?`)) return;
  const lease = await api("DELETE", `leases/${item.lease}`).catch((error) => { alert(error.message); return null; });
  if (lease) { view.queue = view.queue.filter((other) => other.lease !== item.lease); draw(); }
}

function drawLeases() {
  const leases = [...view.leases.values()].filter((lease) => lease.state !== "waiting").sort((a, b) => b.created_at - a.created_at);
  const gpuNames = new Map([...view.nodes.values()].flatMap((node) => (node.telemetry ? node.telemetry.gpus : [])).map((gpu) => [gpu.uuid, gpu.name]));
  rows($("leases"), leases.map((lease) => el("tr", {},
    el("td", { "data-label": "Owner" }, lease.owner),
    el("td", { "data-label": "Server" }, lease.server_name || el("span", { class: "muted" }, "default")),
    el("td", { "data-label": "State" }, status(lease.state, lease.detail)),
    el("td", { class: "nowrap", "data-label": "Node" }, lease.node || "–"),
    el("td", { "data-label": "GPUs" }, lease.gpus.length ? lease.gpus.map((uuid) => el("div", { title: uuid, class: "nowrap" }, gpuNames.get(uuid) || uuid)) : el("span", { class: "muted" }, "none")),
    el("td", { class: "number", "data-label": "Since", "data-since": lease.granted_at || lease.created_at }, format.since(lease.granted_at || lease.created_at)))), 6,
  "No leases of yours, or that you may see.");
}

// ---- what an admin does ----

async function act(name, verb, body) {
  const node = await api("POST", `nodes/${encodeURIComponent(name)}/${verb}`, body).catch((error) => { alert(error.message); return null; });
  if (node) { view.nodes.set(node.name, node); draw(); }
}

function ask(name, verb) {
  const dialog = $("mark");
  const form = dialog.querySelector("form");
  form.reset();
  $("mark-error").hidden = true;
  $("mark-title").textContent = verb === "drain" ? `Drain ${name}` : `Cordon ${name}`;
  $("mark-text").textContent = verb === "drain"
    ? "No new server is placed here, and the node is emptied." : "No new server is placed here; those running stay.";
  $("mark-deadline").hidden = verb !== "drain";
  $("mark-go").textContent = verb === "drain" ? "Drain" : "Cordon";
  form.onsubmit = async (event) => {
    if (event.submitter && event.submitter.value === "cancel") return;
    event.preventDefault();
    const body = { reason: form.reason.value };
    if (verb === "drain" && form.minutes.value !== "") body.deadline_seconds = Number(form.minutes.value) * 60;
    try {
      const node = await api("POST", `nodes/${encodeURIComponent(name)}/${verb}`, body);
      view.nodes.set(node.name, node);
      draw();
      dialog.close();
    } catch (error) {
      $("mark-error").textContent = error.message;
      $("mark-error").hidden = false;
    }
  };
  dialog.showModal();
}

// ---- events ----

let pending = false;
function draw() { // at most once per frame, however many events arrive
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawFigures(); drawNodes(); drawLine(); drawLeases();
  });
}

follow("events", {
  snapshot(data) {
    view.nodes = new Map(data.nodes.map((node) => [node.name, node]));
    view.leases = new Map(data.leases.map((lease) => [lease.id, lease]));
    view.queue = data.queue;
    draw();
  },
  node(node) { view.nodes.set(node.name, node); draw(); },
  node_removed({ name }) { view.nodes.delete(name); draw(); },
  lease(lease) {
    if (lease.state === "released") view.leases.delete(lease.id); else view.leases.set(lease.id, lease);
    draw();
  },
  queue(queue) { view.queue = queue; draw(); },
});

setInterval(() => {
  for (const cell of document.querySelectorAll("[data-since]")) cell.textContent = format.since(Number(cell.dataset.since));
}, 5000);
