// What the benchmark's pages have in common: words, numbers, and what is known of a run.
"use strict";

const GOING = ["starting", "running"];
const FORMATS = [["html", "Report"], ["pdf", "PDF"], ["md", "Markdown"], ["csv", "CSV"], ["json", "JSON"]];
const OUTCOME = {
  succeeded: "good", failed: "bad", timed_out: "bad", lost: "bad", cancelled: "hollow", skipped: "hollow",
  interrupted: "warn", running: "busy", passed: "good", completed: "good", "not passed": "bad",
};

function $(id) { return document.getElementById(id); }

function say(error) {
  const box = $("message");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

function outcome(word, title) {
  return el("span", { class: `status ${OUTCOME[word] || STATUS_KIND[word] || ""}`, title }, word.replace("_", " "));
}

/** How a run stands, in one word: its state, or whether it passed. */
function verdict(run) {
  if (run.state !== "completed" || run.passed === null || run.passed === undefined) return run.state;
  return run.passed ? "passed" : "not passed";
}

/** Seconds with enough figures for a measurement: "0.42 s", "8.1 s", "95 s", "12 min". */
function took(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  return seconds < 120 ? `${Math.round(seconds)} s` : format.age(seconds);
}

/** A length of time without needless parts: "4 h", "90 s", "1 h 30 min". */
function length(seconds) {
  if (seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds < 120 ? `${seconds} s` : format.age(seconds).replace(" 0 min", "");
}

/** "4h", "30m", "90 s" or "90" → seconds; anything else → NaN. */
function seconds(text) {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|)\s*$/.exec(text);
  return match ? Number(match[1]) * { "": 1, s: 1, m: 60, min: 60, h: 3600, d: 86400 }[match[2]] : NaN;
}

/** 3 and "node" → "3 nodes"; 1 → "1 node". */
function count(number, word) { return `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`; }

/** ["a", "b", "c", "d"] → "a, b and 2 more". */
function some(names, most = 4) {
  if (names.length <= most) return names.join(", ");
  return `${names.slice(0, most - 1).join(", ")} and ${names.length - most + 1} more`;
}

function number(value) {
  return value.toLocaleString(undefined, value >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });
}

/** "train_samples_per_second" → "train samples/s". */
function unit(figure) {
  return figure.replace("_per_second", "/s").replace(/_?gflops$/, " GFLOP/s").replaceAll("_", " ").trim();
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (!sorted.length) return null;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function reportPath(id, form, against) {
  const query = new URLSearchParams({ ...(form && form !== "html" ? { format: form } : {}), ...(against ? { against } : {}) });
  return `${PREFIX}api/v1/runs/${id}/report${query.size ? `?${query}` : ""}`;
}

/** Links to a report in every form. */
function reportLinks(id, against) {
  return FORMATS.map(([form, label], index) => el("a", { class: `button${index ? "" : " primary"}`, href: reportPath(id, form, against) }, label));
}

/** How a suite goes: "once", "3 times", "4 h", "on 1, 2, 4 and all nodes in turn". */
function modeText(suite) {
  if (suite.mode === "duration") return suite.duration_seconds ? `for ${length(suite.duration_seconds)}` : "for a time";
  if (suite.mode === "repeat") return `${suite.repeat} times`;
  if (suite.mode === "ramp") {
    const steps = (suite.ramp || []).map((step) => (step ? String(step) : "all"));
    return steps.length ? `on ${steps.slice(0, -1).join(", ")}${steps.length > 1 ? " and " : ""}${steps.at(-1)} nodes in turn` : "on 1, 2, 4 … all nodes in turn";
  }
  return suite.repeat > 1 ? `${suite.repeat} times` : "once";
}

/** Which nodes a suite is for. */
function targetText(suite) {
  const targets = suite.targets || {};
  const parts = [];
  if ((targets.nodes || []).length) parts.push(some(targets.nodes));
  if (targets.role) parts.push(targets.role === "gpuserver" ? "GPU servers" : "microservers");
  for (const [key, value] of Object.entries(targets.labels || {})) parts.push(`${key}=${value}`);
  return parts.join(", ") || "all nodes";
}

function gpuText(suite) {
  if (suite.gpus === null) return "a GPU where the node has one";
  return suite.gpus ? `${count(suite.gpus, "GPU")} per node` : "no GPU";
}

const percent = (value) => `${+(value * 100).toFixed(2)} %`;
/** What a limit of a suite asks for: its name, how its value is told, and as a sentence. */
const LIMIT = {
  max_memory_ratio: ["Memory in use, of any node", (value) => `at most ${percent(value)}`, percent, (value) => `no node uses more than ${percent(value)} of its memory`],
  max_gpu_memory_ratio: ["GPU memory in use, of any node", (value) => `at most ${percent(value)}`, percent, (value) => `no GPU uses more than ${percent(value)} of its memory`],
  min_succeeded_ratio: ["Cases that succeed", (value) => (value === 1 ? "all" : `at least ${percent(value)}`), percent, (value) => (value === 1 ? "every case succeeds" : `at least ${percent(value)} of the cases succeed`)],
  min_cases_per_minute: ["Cases per minute", (value) => `at least ${number(value)}`, (value) => number(+value.toPrecision(3)), (value) => `at least ${number(value)} cases succeed per minute`],
  max_nodes_lost: ["Nodes lost", (value) => (value ? `at most ${value}` : "none"), String, (value) => (value ? `at most ${count(value, "node")} are lost` : "no node is lost")],
  min_balance_ratio: ["Balance between nodes (Jain's index)", (value) => `at least ${value.toFixed(2)}`, (value) => value.toFixed(2), (value) => `the balance between nodes is at least ${value.toFixed(2)}`],
};

/** What a suite asks of a run that passes, as one sentence without its end. */
function passesWhen(suite) { return limitsOf(suite).map(([name, value]) => LIMIT[name][3](value)).join(", "); }

function limitsOf(suite) {
  return Object.entries(suite.limits || {}).filter(([name, value]) => LIMIT[name] && value !== null && value !== undefined);
}

/** "max_nodes_lost is 0, and it came to 1" → "Nodes lost: wanted none, it came to 1". */
function limitText(detail) {
  const [, name, wanted, got] = /^(\w+) is (\S+), and it came to (\S+)$/.exec(detail) || [];
  if (!LIMIT[name]) return `A limit is broken: ${detail}`;
  return `A limit is broken. ${LIMIT[name][0]}: wanted ${LIMIT[name][1](Number(wanted))}, it came to ${LIMIT[name][2](Number(got))}`;
}

const EVENT = {
  run_started: () => ["busy", "The run began"],
  phase_started: (event) => ["busy", `Phase ${event.detail} began`],
  phase_ended: (event) => ["", `Phase ${event.detail} ended${event.seconds ? ` after ${took(event.seconds)}` : ""}`],
  node_lost: (event) => ["bad", `${event.node} was lost${event.detail ? `: ${event.detail}` : ""}`],
  node_back: (event) => ["good", `${event.node} is back${event.seconds ? ` after ${took(event.seconds)}` : ""}`],
  server_restarted: (event) => ["warn", `The server on ${event.node} was started anew${event.detail ? `: ${event.detail}` : ""}`],
  service_gap: (event) => ["warn", `The benchmark service was away${event.seconds ? ` for ${took(event.seconds)}` : ""}; nothing was sampled meanwhile`],
  drained: (event) => ["", `${event.node || "The nodes"} ${event.node ? "was" : "were"} drained for the run`],
  limit_exceeded: (event) => ["bad", limitText(event.detail)],
  cancelled: (event) => ["hollow", `Cancelled${event.detail ? `: ${event.detail}` : ""}`],
};

function eventText(event) {
  const known = EVENT[event.kind];
  return known ? known(event) : ["", [event.kind.replaceAll("_", " "), event.node, event.detail].filter(Boolean).join(" ")];
}
