// Suites, the start of a run, and all runs.
"use strict";

const suites = JSON.parse($("suites").dataset.suites);
const nodes = JSON.parse($("suites").dataset.nodes);
const mayManage = Boolean($("suites").dataset.mayManage);
const dialog = new StartDialog($("start"), nodes);
let runs = [];
const picked = new Set();

// ---- suites ----

function fact(name, value) { return value ? [el("dt", {}, name), el("dd", {}, value)] : []; }

function suiteCard(suite) {
  const able = targeted(suite, nodes).filter((node) => node.eligible).length;
  const concurrency = suite.concurrency > 1 ? `, ${suite.concurrency} at once on each` : "";
  return el("section", { class: "card suite", "aria-label": `suite ${suite.name}` },
    el("div", { class: "row between" }, el("h3", {}, suite.title), el("span", { class: "tag" }, suite.name)),
    suite.description ? el("p", { class: "small muted" }, suite.description) : null,
    el("div", { class: "cases" }, suite.cases.map((one) => el("span", { class: "tag", title: one.notebook }, one.name))),
    el("dl", { class: "facts" },
      fact("Nodes", `${targetText(suite)}${suite.exclusive ? ", to itself" : ""}`),
      fact("Goes", `${modeText(suite)}${(suite.phase_tables || []).length ? `, in ${suite.phase_tables.length} phases` : ""}${concurrency}`),
      fact("Uses", gpuText(suite)),
      fact("Samples", `every ${length(suite.sample_interval_seconds)}`),
      fact("Passes if", passesWhen(suite))),
    mayManage ? el("div", { class: "go row" },
      el("button", { class: "primary", disabled: !able, title: able ? null : "No node of the farm can take part now", onclick: () => dialog.open(suite) }, "Run…"),
      able ? null : el("span", { class: "small muted" }, nodes.length ? "no node can take part now" : "the farm has no nodes")) : null);
}

function drawSuites() {
  const none = el("div", { class: "card empty" }, el("h3", {}, "There are no suites"),
    el("p", { class: "muted" }, "Put suite files (*.toml) into a folder and name it in jupyterhub_config.py as c.BenchmarkApp.suites_dirs. They appear here at the next look."));
  $("suites").replaceChildren(...(suites.length ? suites.map(suiteCard) : [none]));
}

// ---- runs ----

function pick(run, box) {
  if (box.checked) picked.add(run.id); else picked.delete(run.id);
  drawCompare();
}

function drawCompare() {
  const two = runs.filter((run) => picked.has(run.id)); // the newest first
  const bar = $("compare");
  bar.hidden = !two.length;
  if (two.length === 2) {
    const [later, earlier] = two;
    const text = later.suite === earlier.suite ? `${later.id} against ${earlier.id}` : `${later.id} (${later.suite}) against ${earlier.id} (${earlier.suite}): different suites compare only where their cases are the same`;
    bar.replaceChildren(el("span", { class: "small" }, text), el("span", { class: "row" }, el("a", { class: "button", href: `${PREFIX}runs/${later.id}?against=${earlier.id}` }, "Compare"), ...reportLinks(later.id, earlier.id).slice(0, 2)));
  } else {
    bar.replaceChildren(el("span", { class: "small" }, two.length ? "Choose one more run to compare." : "Choose two runs to compare."));
  }
}

function progressOf(run) {
  const phases = run.definition.phases || [];
  const long = phases.reduce((sum, phase) => sum + (phase.duration_seconds || NaN), 0);
  if (!run.started_at || !long) return null;
  const passed = Math.min(1, (Date.now() / 1000 - run.started_at) / long);
  return el("div", { class: "progress", role: "presentation" }, el("i", { style: { width: `${passed * 100}%` } }));
}

function runRow(run) {
  const part = run.nodes.filter((node) => !node.skipped);
  const going = GOING.includes(run.state);
  const detail = run.detail || (run.limits || []).filter((limit) => !limit.held).map((limit) => `${limit.name} broken`).join(", ");
  return el("tr", {},
    el("td", { class: "pick", "data-label": "Compare" }, going ? null : el("input", { type: "checkbox", checked: picked.has(run.id), "aria-label": `compare run ${run.id}`, onchange: (event) => pick(run, event.target) })),
    el("td", { class: "nowrap", "data-label": "Run" }, el("a", { href: `${PREFIX}runs/${run.id}` }, run.id)),
    el("td", { "data-label": "Suite" }, run.suite),
    el("td", { "data-label": "State" }, el("div", {}, outcome(verdict(run), run.detail), detail ? el("div", { class: "small muted" }, detail) : null, going ? progressOf(run) : null)),
    el("td", { class: "nowrap", "data-label": "Nodes", title: part.map((node) => node.name).join(", ") }, `${part.length} of ${run.nodes.length}`),
    el("td", { "data-label": "Started by" }, run.requested_by),
    el("td", { class: "nowrap", "data-label": "Started" }, format.time(run.created_at)),
    el("td", { class: "number", "data-label": "Took" }, took((run.ended_at || Date.now() / 1000) - run.created_at)),
    el("td", { class: "nowrap", "data-label": "Report" }, going
      ? el("a", { href: `${PREFIX}runs/${run.id}` }, "Follow")
      : el("a", { href: reportPath(run.id) }, "Report")));
}

const rows = new Map(); // a row stays the same element while its run does: a box that is redrawn loses its click

function rowOf(run) {
  const key = JSON.stringify([run.state, run.passed, run.detail]);
  const known = rows.get(run.id);
  if (known && known.key === key && !GOING.includes(run.state)) return known.row;
  const row = runRow(run);
  rows.set(run.id, { key, row });
  return row;
}

async function showRuns() {
  try {
    runs = (await api("GET", "runs")).runs;
    const wanted = runs.length ? runs.map(rowOf)
      : [el("tr", {}, el("td", { class: "empty", colspan: 9 }, mayManage && suites.length && nodes.length ? "Nothing was run yet. Start a suite above." : "Nothing was run yet."))];
    const place = $("runs");
    wanted.forEach((row, index) => { if (place.children[index] !== row) place.insertBefore(row, place.children[index] || null); });
    while (place.children.length > wanted.length) place.lastChild.remove();
    drawCompare();
  } catch (error) {
    say(error);
  }
}

drawSuites();
showRuns();
setInterval(() => { if (!document.hidden) showRuns(); }, 5000);
