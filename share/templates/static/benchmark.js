// The benchmark's pages: suites and runs, and one run live.
"use strict";

const GOING = ["starting", "running"];
const OUTCOME = {
  succeeded: "good", failed: "bad", timed_out: "bad", lost: "bad", cancelled: "hollow", skipped: "hollow",
  interrupted: "warn", running: "busy",
};

function say(error) {
  const box = document.getElementById("message");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

function outcome(word, title) {
  const shown = word.replace("_", " ");
  return el("span", { class: `status ${OUTCOME[word] || STATUS_KIND[word] || ""}`, title }, shown);
}

/** Seconds with enough figures for a measurement: "0.42 s", "8.1 s", "95 s", "12 min". */
function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return seconds < 120 ? `${Math.round(seconds)} s` : format.age(seconds);
}

/** The figure that stands for a case: "8,123 train samples/s". */
function primaryText(result) {
  const value = result.figures[result.primary];
  if (typeof value !== "number") return result.device;
  const unit = result.primary.replace("_per_second", "/s").replace("_gflops", " GFLOP/s").replaceAll("_", " ");
  const shown = value.toLocaleString(undefined, value >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });
  return `${shown} ${unit}${result.device ? `, ${result.device}` : ""}`;
}

const reportPath = (id, form) => `${PREFIX}api/v1/runs/${id}/report${form ? `?format=${form}` : ""}`;

// ---- all runs ----

function runRow(run) {
  const part = run.nodes.filter((node) => !node.skipped);
  const end = run.ended_at || Date.now() / 1000;
  return el("tr", {},
    el("td", { class: "nowrap" }, el("a", { href: `${PREFIX}runs/${run.id}` }, run.id)),
    el("td", {}, run.suite),
    el("td", {}, outcome(run.state, run.detail), run.detail ? el("div", { class: "small muted" }, run.detail) : null),
    el("td", { title: part.map((node) => node.name).join(", ") }, `${part.length} of ${run.nodes.length}`),
    el("td", {}, run.requested_by),
    el("td", { class: "nowrap" }, format.time(run.created_at)),
    el("td", { class: "number" }, took(end - run.created_at)),
    el("td", { class: "nowrap" }, GOING.includes(run.state)
      ? el("a", { href: `${PREFIX}runs/${run.id}` }, "Follow")
      : el("a", { href: reportPath(run.id) }, "Report")));
}

async function showRuns(body) {
  try {
    const { runs } = await api("GET", "runs");
    const going = runs.some((run) => GOING.includes(run.state));
    body.replaceChildren(...(runs.length ? runs.map(runRow)
      : [el("tr", {}, el("td", { class: "empty", colspan: 8 }, "Nothing was run yet. Start a suite above."))]));
    for (const button of document.querySelectorAll("[data-run-suite]")) {
      button.disabled = going;
      button.title = going ? "A run is going, and there is one at a time" : "";
    }
  } catch (error) {
    say(error);
  }
}

async function startRun(button) {
  say(null);
  button.disabled = true;
  try {
    const run = await api("POST", "runs", { suite: button.dataset.runSuite, nodes: null });
    location.href = `${PREFIX}runs/${run.id}`;
  } catch (error) {
    say(error);
    button.disabled = false;
  }
}

function overview(body) {
  for (const button of document.querySelectorAll("[data-run-suite]")) {
    button.addEventListener("click", () => startRun(button));
  }
  showRuns(body);
  setInterval(() => { if (!document.hidden) showRuns(body); }, 5000);
}

// ---- one run ----

function liveRun(root) {
  const id = root.dataset.run;
  const state = { run: null, results: new Map(), progress: new Map(), samples: new Map() };
  const key = (item) => `${item.node}\n${item.case}`;

  const caseLine = (node, name) => {
    const result = state.results.get(key({ node: node.name, case: name }));
    const now = state.progress.get(node.name);
    const box = (...children) => el("div", { style: { borderTop: "1px solid var(--line)", padding: ".5rem 0" } }, children);
    const line = (word, right) => el("div", { class: "row between" }, el("b", { class: "small" }, name),
      el("span", { class: "row" }, word, right ? el("span", { class: "small" }, right) : null));
    if (result) {
      const good = result.outcome === "succeeded";
      const text = good ? primaryText(result) : result.error ? result.error.message : result.reason;
      return box(line(outcome(result.outcome, result.reason), good ? took(result.duration_seconds) : ""),
        text ? el("div", { class: "small muted", style: { overflowWrap: "anywhere" } }, text) : null);
    }
    if (now && now.case === name && GOING.includes(state.run.state)) {
      return box(line(outcome("running"), `${now.cells_done} of ${now.cells_total} cells`),
        el("progress", { value: now.cells_done, max: Math.max(1, now.cells_total), style: { width: "100%", accentColor: "var(--accent)" }, "aria-label": `${name} on ${node.name}` }));
    }
    return box(line(el("span", { class: "small muted" }, "not yet")));
  };

  const card = (node) => {
    const values = state.samples.get(node.name) || {};
    const now = state.progress.get(node.name);
    const share = (used, total) => (values[total] ? values[used] / values[total] : null);
    const gpus = (node.about.gpus || []);
    const simulated = gpus.some((gpu) => gpu.simulated);
    const memory = share("memory_used_bytes", "memory_total_bytes");
    return el("section", { class: "card" },
      el("div", { class: "row between" }, el("h3", {}, node.name), el("span", { class: "row" },
        simulated ? el("span", { class: "tag simulated" }, "simulated GPU") : null, el("span", { class: "tag" }, node.role))),
      node.skipped ? el("p", { class: "muted" }, `Took no part: ${node.skipped}`) : [
        now && now.phase && now.phase !== "ready" ? el("p", { class: "small muted" }, `server: ${now.phase}${now.detail ? `, ${now.detail}` : ""}`) : null,
        GOING.includes(state.run.state) ? [
          bar("CPU", values.cpu_utilization_ratio, format.ratio(values.cpu_utilization_ratio)),
          bar("Memory", memory, format.ratio(memory)),
          gpus.length ? bar("GPU", values.gpu_utilization_ratio, format.ratio(values.gpu_utilization_ratio)) : null,
        ] : null,
        el("div", { class: "cases", style: { marginTop: ".7rem" } }, cases().map((name) => caseLine(node, name))),
      ]);
  };

  const cases = () => (state.run.definition.cases || []).map((one) => one.name);

  const figure = (label, value) => el("div", { class: "figure" }, el("dt", {}, label), el("dd", {}, value));

  const draw = () => {
    const run = state.run;
    const part = run.nodes.filter((node) => !node.skipped);
    const going = GOING.includes(run.state);
    const done = [...state.results.values()].filter((result) => part.some((node) => node.name === result.node));
    const good = done.filter((result) => result.outcome === "succeeded").length;
    // The buttons stay the same elements while nothing about them changes: who stands on one keeps the focus.
    const head = `${run.state}\n${run.detail}`;
    if (head !== state.head) document.getElementById("run-head").replaceChildren(...[
      outcome(run.state),
      run.detail ? el("span", { class: "muted" }, run.detail) : null,
      going && root.dataset.mayManage ? el("button", { class: "danger push", onclick: cancel }, "Cancel the run") : null,
      going ? null : el("span", { class: "push row" }, el("a", { class: "button primary", href: reportPath(id) }, "Report"),
        ...["json", "csv", "md"].map((form) => el("a", { class: "button", href: reportPath(id, form) }, form.toUpperCase()))),
    ].filter(Boolean));
    state.head = head;
    document.getElementById("run-figures").replaceChildren(
      figure("Nodes", `${part.length} of ${run.nodes.length}`),
      figure("Cases done", `${done.length} of ${part.length * cases().length}`),
      figure("Succeeded", String(good)),
      figure("Time", took((run.ended_at || Date.now() / 1000) - run.created_at)));
    document.getElementById("run-nodes").replaceChildren(...run.nodes.map(card));
  };

  const cancel = async (event) => {
    event.target.disabled = true;
    try { await api("POST", `runs/${id}/cancel`, {}); } catch (error) { say(error); }
  };

  const close = follow(`runs/${id}/events`, {
    run(view) {
      state.run = view;
      state.results = new Map(view.results.map((result) => [key(result), result]));
      state.progress = new Map(view.progress.map((item) => [item.node, item]));
      draw();
      if (!GOING.includes(view.state)) { close(); clearInterval(ticking); }
    },
    result(result) { state.results.set(key(result), result); draw(); },
    progress(item) { state.progress.set(item.node, item); draw(); },
    sample(samples) {
      for (const sample of samples) if (sample.scope === "node") state.samples.set(sample.name, sample.values);
      draw();
    },
  });
  const ticking = setInterval(() => { if (state.run && !document.hidden) draw(); }, 1000);
}

const runs = document.getElementById("runs");
if (runs) overview(runs);
const run = document.getElementById("run");
if (run) liveRun(run);
