// One run, live: how far it is, what its nodes do, and what happened.
"use strict";

const root = $("run");
const id = root.dataset.run;
const mayManage = Boolean(root.dataset.mayManage);
let model = null;
let compared = false;

const share = (used, total) => (values) => (values[total] ? (values[used] ?? 0) / values[total] : null);
const CHARTS = [
  { chart: new Chart("CPU", format.ratio, 1), quantity: (values) => values.cpu_utilization_ratio },
  { chart: new Chart("Memory in use", format.ratio, 1), quantity: share("memory_used_bytes", "memory_total_bytes") },
  { chart: new Chart("GPU", format.ratio, 1), quantity: (values) => values.gpu_utilization_ratio },
  { chart: new Chart("GPU memory in use", format.ratio, 1), quantity: (values) => (values.gpu_memory_used_bytes === undefined ? null : share("gpu_memory_used_bytes", "gpu_memory_total_bytes")(values)) },
  { chart: new Chart("Cases completed per minute", (value) => number(+value.toPrecision(3))), rate: true },
];

const byName = (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true });
const figure = (label, value, rest) => el("div", { class: "figure" }, el("dt", {}, label), el("dd", {}, value, el("small", {}, rest || "\u00a0")));

// ---- the head ----

let head = null;
function drawHead() {
  const run = model.view;
  // The buttons stay the same elements while nothing about them changes: who stands on one keeps the focus.
  const key = JSON.stringify([run.state, run.detail, run.passed]);
  if (key === head) return;
  head = key;
  $("run-head").replaceChildren(...[
    outcome(verdict(run)),
    run.detail ? el("span", { class: "muted" }, run.detail) : null,
    run.exclusive ? el("span", { class: "tag" }, "has its nodes to itself") : null,
    el("span", { class: "push row" },
      model.going && mayManage ? el("button", { class: "danger", onclick: askCancel }, "Cancel…") : null,
      model.going ? el("a", { class: "button", href: reportPath(id) }, "Report so far") : reportLinks(id)),
  ].filter(Boolean));
}

function askCancel() {
  const dialog = $("cancel");
  dialog.returnValue = "";
  dialog.onclose = async () => {
    if (dialog.returnValue !== "cancel") return;
    try { await api("POST", `runs/${id}/cancel`, {}); } catch (error) { say(error); }
  };
  dialog.showModal();
}

function drawBar() {
  const now = Date.now() / 1000;
  const ratio = model.going ? model.ratio(now) : null;
  const place = $("run-bar");
  place.hidden = !model.going;
  if (!model.going) return;
  const remaining = model.remaining(now);
  const phase = model.phases.length > 1 ? model.phase() : null;
  const left = model.view.state === "starting" ? "the servers are being started" : remaining === null ? "how long it takes is known when each case has run once"
    : `about ${took(remaining)} left, until ${new Date((now + remaining) * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
  place.replaceChildren(
    el("div", { class: "progress", role: "progressbar", "aria-label": "the run", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": ratio === null ? null : Math.round(ratio * 100) }, el("i", { style: { width: `${(ratio || 0) * 100}%` } })),
    el("p", { class: "small muted" }, [phase ? `Phase ${phase[0]} of ${model.phases.length}, ${phase[1].name}, on ${count(phase[1].nodes.length, "node")}` : null, left].filter(Boolean).join(" · ")));
}

function drawFigures() {
  const run = model.view;
  const total = model.total();
  const done = model.sum();
  const bad = done - model.sum({ outcome: "succeeded" }) - model.sum({ outcome: "skipped" });
  const up = model.nodes.filter((node) => { const newest = model.newest(node.name); return newest && newest.values.up; }).length;
  const farm = model.rate("farm", "farm", rateSpan()).at(-1);
  const whole = run.ended_at && run.started_at ? 60 * model.sum({ outcome: "succeeded" }) / Math.max(1, run.ended_at - run.started_at) : null;
  const rate = whole ?? (farm ? farm[1] : null);
  $("run-figures").replaceChildren(
    figure("Time", took((run.ended_at || Date.now() / 1000) - run.created_at), `since ${new Date(run.created_at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`),
    figure("Cases done", done.toLocaleString(), total === null ? "until the time is over" : `of ${total.toLocaleString()}`),
    figure("Not succeeded", bad.toLocaleString(), done ? `${(100 * bad / done).toFixed(1)} %` : ""),
    figure("Per minute", rate === null ? "–" : number(+rate.toPrecision(3)), whole === null ? "over the last minutes" : "over the whole run"),
    figure("Nodes", model.going && model.samples.size ? `${up} up` : String(model.nodes.length), `of ${run.nodes.length}`));
}

/** What a limit has come to so far, where the page can tell. */
function soFar(name) {
  const passed = Date.now() / 1000 - model.view.started_at;
  const most = (used, total) => Math.max(0, ...model.nodes.flatMap((node) => (model.samples.get(`node\n${node.name}`) || []).map((sample) => share(used, total)(sample.values) ?? 0)));
  const good = model.sum({ outcome: "succeeded" });
  const tried = model.sum() - model.sum({ outcome: "skipped" }) - model.sum({ outcome: "cancelled" });
  if (name === "max_memory_ratio") return model.samples.size ? most("memory_used_bytes", "memory_total_bytes") : null;
  if (name === "max_gpu_memory_ratio") return model.samples.size ? most("gpu_memory_used_bytes", "gpu_memory_total_bytes") : null;
  if (name === "min_succeeded_ratio") return tried ? good / tried : null;
  if (name === "min_cases_per_minute") return model.view.started_at && passed > 60 ? 60 * good / passed : null;
  if (name === "max_nodes_lost") return new Set(model.events.filter((event) => event.kind === "node_lost").map((event) => event.node)).size;
  return null;
}

function drawLimits() {
  const outcomes = new Map((model.view.limits || []).map((limit) => [limit.name, limit]));
  const exceeded = new Set(model.events.filter((event) => event.kind === "limit_exceeded").map((event) => event.detail.split(" ")[0]));
  const wanted = limitsOf(model.view.definition);
  $("run-limits").hidden = !wanted.length;
  $("run-limits").querySelector("tbody").replaceChildren(...wanted.map(([name, value]) => {
    const limit = outcomes.get(name);
    const broken = limit ? !limit.held : exceeded.has(name);
    const got = limit ? limit.got : model.going ? soFar(name) : null;
    const missed = got !== null && got !== undefined && (name.startsWith("max_") ? got > value : got < value);
    const soon = missed ? ["warn", "not held so far"] : ["busy", "holds so far"];
    const word = broken ? ["bad", "broken"] : limit ? ["good", "held"] : model.going ? soon : ["hollow", "not known"];
    return el("tr", {}, el("td", { "data-label": "Limit" }, LIMIT[name][0]), el("td", { class: "nowrap", "data-label": "Wanted" }, LIMIT[name][1](value)),
      el("td", { class: "nowrap", "data-label": "Got" }, got === null || got === undefined ? "–" : LIMIT[name][2](got)), el("td", { "data-label": "Held" }, el("span", { class: `status ${word[0]}` }, word[1])));
  }));
}

// ---- over time ----

const interval = () => model.view.sample_interval_seconds || model.view.definition.sample_interval_seconds || 2;
const rateSpan = () => Math.max(60, 3 * interval());

function marks(from, to) {
  return model.events.flatMap((event) => {
    const [kind, text] = eventText(event);
    if (event.kind === "service_gap") return [{ at: event.at - (event.seconds || 0), until: event.at, text }];
    if (["node_lost", "node_back", "server_restarted", "limit_exceeded", "phase_started"].includes(event.kind)) return [{ at: event.at, kind, text }];
    return [];
  }).filter((mark) => mark.at <= to && (mark.until || mark.at) >= from);
}

let legendOf = "";
function drawCharts() {
  const names = [...model.nodes].sort(byName).map((node) => node.name);
  if (legendOf !== names.join()) { legendOf = names.join(); $("run-legend").replaceChildren(legend(names)); }
  const farm = model.samples.get("farm\nfarm") || [];
  const from = farm.length ? farm[0].at : model.view.created_at;
  const to = model.view.ended_at ? Math.max(from + 1, model.view.ended_at) : Math.max(from + 60, Date.now() / 1000);
  const span = rateSpan();
  for (const { chart, quantity, rate } of CHARTS) {
    const over = (scope, name) => (rate ? model.rate(scope, name, span) : model.over(scope, name, quantity));
    const lines = [...names.map((name) => ({ name, points: over("node", name) })), { name: "farm", points: over("farm", "farm"), strong: true }];
    const known = lines.some((line) => line.points.some(([, value]) => value !== null && value !== undefined));
    chart.box.hidden = !known && chart.title.startsWith("GPU");
    chart.draw(lines, from, to, 3.5 * interval(), marks(from, to));
  }
}

// ---- nodes ----

function laneRow(item) {
  const label = item.lane || model.lanes(item.node).length > 1 ? `${item.case} (lane ${(item.lane || 0) + 1})` : item.case;
  return el("div", { class: "lane" },
    el("div", { class: "row between" }, el("span", {}, label, item.warm_up ? el("span", { class: "muted" }, " warm-up") : null), el("span", { class: "muted" }, `${item.cells_done} of ${item.cells_total} cells`)),
    el("div", { class: "progress", role: "progressbar", "aria-label": `${item.case} on ${item.node}`, "aria-valuemin": 0, "aria-valuenow": item.cells_done, "aria-valuemax": item.cells_total }, el("i", { style: { width: `${100 * item.cells_done / Math.max(1, item.cells_total)}%` } })));
}

function caseRow(name, node) {
  const found = model.caseSummary(name, node.name);
  const word = !found.done ? el("span", { class: "small muted" }, "not yet")
    : found.bad ? el("span", { class: "status bad" }, found.done === 1 ? found.worst?.outcome.replace("_", " ") ?? "failed" : `${found.done - found.bad} of ${found.done} succeeded`)
      : found.last && found.last.outcome === "skipped" ? outcome("skipped") : el("span", { class: "status good" }, found.done === 1 ? "succeeded" : `${found.done} succeeded`);
  const what = [found.seconds === null ? null : took(found.seconds), found.value === null ? null : `${number(found.value)} ${unit(found.primary)}`, found.device].filter(Boolean).join(" · ");
  const skipped = found.last && found.last.outcome === "skipped" ? found.last.reason : "";
  const why = found.worst ? (found.worst.error ? found.worst.error.message : found.worst.reason) : skipped;
  return el("div", { class: "case" }, el("div", { class: "row between" }, el("b", { class: "small" }, name), word),
    what ? el("div", { class: "small muted" }, what) : null, why ? el("div", { class: `small why ${found.worst ? "bad" : "muted"}` }, why) : null);
}

function nodeCard(node) {
  const newest = model.newest(node.name);
  const values = newest ? newest.values : {};
  const gpus = node.about.gpus || [];
  const simulated = gpus.some((gpu) => gpu.simulated);
  const lanes = model.lanes(node.name);
  const server = lanes.find((item) => item.case === null && !["ready", "running"].includes(item.status || item.phase));
  const total = node.skipped ? null : model.total(node);
  const done = model.sum({ node: node.name });
  const state = node.skipped ? ["hollow", "takes no part"] : newest && !values.up ? ["bad", "not connected"]
    : model.going ? (server ? ["warn", server.status || server.phase] : ["busy", lanes.some((item) => item.case) ? "at work" : "waits"]) : null;
  const memory = share("memory_used_bytes", "memory_total_bytes")(values);
  return el("section", { class: "card node-run", "aria-label": `node ${node.name}` },
    el("div", { class: "row between" }, el("h3", {}, node.name), el("span", { class: "row" },
      simulated ? el("span", { class: "tag simulated" }, "simulated GPU") : null, el("span", { class: "tag" }, node.role === "gpuserver" ? "GPU server" : "microserver"))),
    node.skipped ? el("p", { class: "small muted" }, `Takes no part: ${node.skipped}`) : [
      el("div", { class: "row between small" }, state ? el("span", { class: `status ${state[0]}`, title: server ? server.detail : null }, state[1]) : el("span", {}),
        el("span", { class: "muted" }, total === null ? `${done} done` : `${done} of ${total} done`)),
      server && server.detail ? el("p", { class: "small muted" }, server.detail) : null,
      model.going && newest && values.up ? [
        bar("CPU", values.cpu_utilization_ratio, format.ratio(values.cpu_utilization_ratio)),
        bar("Memory", memory, format.ratio(memory), null, true),
        gpus.length ? bar("GPU", values.gpu_utilization_ratio, format.ratio(values.gpu_utilization_ratio)) : null,
      ] : null,
      lanes.filter((item) => item.case !== null && model.going).map(laneRow),
      el("div", { class: "cases-of" }, model.cases.map((name) => caseRow(name, node))),
    ]);
}

function drawEvents() {
  const list = model.events.length ? [...model.events].sort((a, b) => b.at - a.at).map((event) => {
    const [kind, text] = eventText(event);
    const at = new Date(event.at * 1000);
    const day = at.toDateString() !== new Date(model.view.created_at * 1000).toDateString();
    return el("li", {}, el("time", { datetime: at.toISOString(), title: format.time(event.at) }, day ? format.time(event.at) : at.toLocaleTimeString()), el("span", { class: `status ${kind}` }, text));
  }) : [el("li", { class: "muted" }, "Nothing yet.")];
  $("run-events").replaceChildren(...list);
}

// ---- drawing, at most once per frame ----

let pending = false;
let eventsDrawn = -1;
function draw() {
  if (pending || !model) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawHead(); drawBar(); drawFigures(); drawLimits(); drawCharts();
    $("run-nodes").replaceChildren(...[...model.view.nodes].sort(byName).map(nodeCard));
    if (eventsDrawn !== model.events.length) { eventsDrawn = model.events.length; drawEvents(); }
    if (!model.going && !compared) { compared = true; void new Comparison($("run-compare"), model.view); }
  });
}

async function loadSamples() {
  try {
    const { samples } = await api("GET", `runs/${id}/samples?points=600`);
    const live = model.samples;
    model.samples = new Map();
    model.takeSamples(samples);
    for (const known of live.values()) model.takeSamples(known);
    draw();
  } catch (error) {
    say(error);
  }
}

const close = follow(`runs/${id}/events`, {
  run(view) {
    const first = model === null;
    if (first) model = new RunModel(view); else model.take(view);
    if (first) loadSamples();
    draw();
    if (!model.going) { close(); clearInterval(ticking); }
  },
  result(result) { model.keep(result); draw(); },
  progress(item) { model.takeProgress(item); draw(); },
  sample(samples) { model.takeSamples(samples); draw(); },
  event(event) { model.events.push(event); draw(); },
});
const ticking = setInterval(draw, 1000);
for (const { chart } of CHARTS) $("run-charts").append(chart.box);
