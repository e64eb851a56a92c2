// The dialog that starts a run, and what it says will happen.
"use strict";

/** Why a node can take no part in a run now. */
function why(node) { return `is ${node.status}${node.detail ? `: ${node.detail}` : ""}`; }

/** The nodes that a suite, or a selection of labels, is for. */
function selected(nodes, labels) {
  const wanted = Object.entries(labels);
  return nodes.filter((node) => wanted.every(([key, value]) => (key === "role" ? node.role : node.labels[key]) === value));
}

function targeted(suite, nodes) {
  const targets = suite.targets || {};
  const named = (targets.nodes || []).length ? nodes.filter((node) => targets.nodes.includes(node.name)) : nodes;
  return selected(named, { ...(targets.labels || {}), ...(targets.role ? { role: targets.role } : {}) });
}

/** "role=microserver, zone=a" → {role: "microserver", zone: "a"}; null where that is no such text. */
function labels(text) {
  const pairs = text.split(",").map((part) => part.trim()).filter(Boolean).map((part) => part.split("="));
  return pairs.length && pairs.every((pair) => pair.length === 2 && pair[0] && pair[1]) ? Object.fromEntries(pairs) : null;
}

/** The phases that a run will have: [{name, nodes, repetitions, seconds}]. */
function plan(suite, request, nodes) {
  const tables = suite.mode === "ramp"
    ? steps(suite.ramp || [], nodes.length).map((step) => ({ name: `${step}`, nodes: step }))
    : (suite.phase_tables || []).length ? suite.phase_tables : [{ name: "", nodes: 0 }];
  const time = (table) => {
    if (request.repeat) return null;
    if (request.duration_seconds) return request.duration_seconds;
    return table.repeat ? null : suite.duration_seconds;
  };
  const timed = tables.filter((table) => time(table)).length;
  return tables.map((table) => ({
    name: table.name, nodes: table.nodes || nodes.length, repetitions: request.repeat || table.repeat || suite.repeat || 1,
    seconds: time(table) ? time(table) / timed : null,
  }));
}

function steps(ramp, most) {
  const asked = ramp.length ? ramp : [...Array.from({ length: Math.floor(Math.log2(most || 1)) + 1 }, (_, power) => 2 ** power), 0];
  return [...new Set(asked.map((step) => Math.min(step, most) || most))].sort((a, b) => a - b);
}

/** What will happen, as paragraphs. */
function summary(suite, request, chosen) {
  const able = chosen.filter((node) => node.eligible);
  if (!able.length) return [el("p", { class: "bad" }, chosen.length ? `No node can take part: ${some(chosen.map((node) => `${node.name} ${why(node)}`), 3)}.` : "No node is chosen.")];
  const phases = plan(suite, request, able);
  const long = phases.reduce((sum, phase) => sum + (phase.seconds || 0), 0);
  const timed = phases.every((phase) => phase.seconds);
  const gpus = able.reduce((sum, node) => sum + (suite.gpus === null ? Math.min(1, node.gpus) : suite.gpus), 0);
  const what = phases.length > 1
    ? `${count(suite.cases.length, "case")} in ${phases.length} phases, ${suite.mode === "ramp" ? `on ${phases.map((phase) => phase.nodes).join(", then ")} nodes` : phases.map((phase) => phase.name).join(", ")}`
    : `${count(suite.cases.length, "case")} at the same time on all of them`;
  const end = new Date(Date.now() + long * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(long > 72000 ? { weekday: "short" } : {}) });
  const how = timed ? `again and again for ${length(long)}, until about ${end}`
    : Math.max(...phases.map((phase) => phase.repetitions)) > 1 ? `${phases[0].repetitions} times each` : "once each";
  const not = chosen.filter((node) => !node.eligible);
  const interval = request.sample_interval_seconds || suite.sample_interval_seconds;
  return [
    el("p", {}, el("b", {}, count(able.length, "node")), ` (${some(able.map((node) => node.name), 5)}): a server of the user benchmark on each, ${gpus ? `${count(gpus, "GPU")} leased in all` : "no GPU"}.`),
    el("p", {}, `${what}, ${how}${suite.warm_up ? `, after ${suite.warm_up} for warm-up` : ""}. Metrics are sampled every ${length(interval)}.`),
    request.exclusive || suite.exclusive ? el("p", {}, "The nodes are drained first: servers of others may end in their own time, and none is placed there until the run is over.") : null,
    limitsOf(suite).length ? el("p", {}, `It passes when ${passesWhen(suite)}.`) : null,
    not.length ? el("p", { class: "warn" }, `Not taking part: ${some(not.map((node) => `${node.name} ${why(node)}`), 3)}.`) : null,
  ].filter(Boolean);
}

class StartDialog {
  constructor(dialog, nodes) {
    this.dialog = dialog;
    this.nodes = nodes;
  }

  open(suite) {
    this.suite = suite;
    const radio = (name, value, checked) => el("input", { type: "radio", name, value, checked });
    const choose = (name, value) => { this.form.elements[name].value = value; this.tell(); };
    const nodes = this.nodes.map((node) => el("label", { class: "choice" },
      el("input", { type: "checkbox", name: "node", value: node.name, disabled: !node.eligible, checked: false, onchange: () => choose("where", "nodes") }),
      el("span", { class: "nowrap" }, node.name), el("span", { class: "why", title: node.detail }, node.eligible ? (node.role === "gpuserver" ? "GPU server" : "") : node.status)));
    const text = (name, value, placeholder, label, group) => el("input", { type: "text", name, placeholder, "aria-label": label, size: 12, value, oninput: () => choose(...group) });
    this.error = el("p", { class: "note bad", role: "alert", hidden: true });
    this.will = el("div", { class: "will small", "aria-live": "polite" });
    this.go = el("button", { class: "primary", value: "go" }, "Start the run");
    this.form = el("form", { method: "dialog", onsubmit: (event) => this.submit(event), onchange: () => this.tell() },
      el("div", { class: "row between" }, el("h3", { id: "start-title" }, `Run ${suite.title}`), el("span", { class: "tag" }, suite.name)),
      el("fieldset", {}, el("legend", {}, "On which nodes"),
        el("label", { class: "choice" }, radio("where", "suite", true), el("span", {}, `as the suite says: ${targetText(suite)}`)),
        el("label", { class: "choice" }, radio("where", "labels"), "with the labels", text("labels", "", "role=microserver", "Labels", ["where", "labels"])),
        el("label", { class: "choice" }, radio("where", "nodes"), "these"), el("div", { class: "node-list" }, nodes)),
      el("div", { class: "halves-form" },
        el("fieldset", {}, el("legend", {}, "How long"),
          el("label", { class: "choice" }, radio("long", "suite", true), el("span", {}, `as the suite says: ${modeText(suite)}`)),
          el("label", { class: "choice" }, radio("long", "duration"), "for", text("duration", "", "4h", "Duration", ["long", "duration"])),
          el("label", { class: "choice" }, radio("long", "repeat"), el("input", { type: "number", name: "repeat", min: 1, step: 1, placeholder: "3", "aria-label": "Repetitions", oninput: () => choose("long", "repeat") }), "times")),
        el("fieldset", {}, el("legend", {}, "How"),
          el("label", { class: "choice" }, "sample metrics every", text("interval", "", length(suite.sample_interval_seconds), "Sample interval", ["none", ""])),
          el("label", { class: "choice" }, el("input", { type: "checkbox", name: "exclusive", checked: suite.exclusive, disabled: suite.exclusive }), el("span", {}, "have the nodes to itself: they are drained first")))),
      this.will, this.error,
      el("div", { class: "row" }, this.go, el("button", { value: "", formnovalidate: true }, "Not now")));
    this.form.append(el("input", { type: "hidden", name: "none" }));
    this.dialog.replaceChildren(this.form);
    this.tell();
    this.dialog.showModal();
    this.go.focus();
  }

  /** What is asked for: [request, chosen nodes], or a sentence about what is wrong. */
  wanted() {
    const of = this.form.elements;
    const request = { suite: this.suite.name };
    let chosen = targeted(this.suite, this.nodes);
    if (of.where.value === "labels") {
      request.labels = labels(of.labels.value);
      if (!request.labels) return "Give labels as in role=microserver, zone=a.";
      chosen = selected(this.nodes, request.labels);
      if (!chosen.length) return `No node has ${of.labels.value.trim()}.`;
    } else if (of.where.value === "nodes") {
      request.nodes = [...this.form.querySelectorAll("[name=node]:checked")].map((box) => box.value);
      if (!request.nodes.length) return "Choose at least one node.";
      chosen = this.nodes.filter((node) => request.nodes.includes(node.name));
    }
    if (of.long.value === "duration") {
      request.duration_seconds = seconds(of.duration.value);
      if (!(request.duration_seconds > 0)) return "Give a duration as in 30m or 4h.";
    } else if (of.long.value === "repeat") {
      request.repeat = Number(of.repeat.value);
      if (!Number.isInteger(request.repeat) || request.repeat < 1) return "Give a whole number of repetitions.";
    }
    if (of.interval.value.trim()) {
      request.sample_interval_seconds = seconds(of.interval.value);
      if (!(request.sample_interval_seconds > 0)) return "Give the time between samples as in 10s or 5m.";
    }
    if (of.exclusive.checked) request.exclusive = true;
    return [request, chosen];
  }

  tell() {
    const wanted = this.wanted();
    const wrong = typeof wanted === "string";
    const told = wrong ? [el("p", { class: "muted" }, wanted)] : summary(this.suite, ...wanted);
    this.will.replaceChildren(...told);
    this.go.disabled = wrong || !wanted[1].some((node) => node.eligible);
    this.error.hidden = true;
  }

  async submit(event) {
    if (event.submitter && event.submitter !== this.go) return;
    event.preventDefault();
    const wanted = this.wanted();
    if (typeof wanted === "string") return;
    this.go.disabled = true;
    try {
      const run = await api("POST", "runs", wanted[0]);
      location.href = `${PREFIX}runs/${run.id}`;
    } catch (error) {
      this.error.textContent = error.message;
      this.error.hidden = false;
      this.go.disabled = false;
    }
  }
}
