// A task's page, kept current by events.
"use strict";

const state = { task: null, attempts: new Map(), changes: new Map(), artifacts: new Map(), progress: null, agent: null };
const id = $("task").dataset.task;
const notebook = notebookView($("notebook"));
let unfollow = null;

function say(error) {
  $("message").textContent = error ? error.message : "";
  $("message").hidden = !error;
}

const attempts = () => [...state.attempts.values()].sort((a, b) => b.number - a.number);
const newest = () => state.attempts.get(state.task.attempt);

// ---- head ----

function drawHead() {
  const { task } = state;
  drawWhenNew($("state"), [taskState(task), because(task)], () => [status(taskState(task)), el("span", { class: "muted" }, because(task))]);
  drawWhenNew($("actions"), [task.state, task.ending, state.agent], () => [
    mayAct(state.agent) || task.assignee === ME ? taskButton(task, changed) : null,
    el("button", { onclick: () => handOver(task, changed) }, "Hand over…")]);
  drawFigures();
}

function drawFigures() {
  const { task } = state;
  const attempt = newest();
  const end = task.ended_at || Date.now() / 1000;
  $("figures").replaceChildren(
    el("div", { class: "figure" }, el("dt", {}, "Agent"), el("dd", { class: "name" }, el("a", { href: agentUrl(task.agent), class: "plain" }, task.agent),
      el("small", {}, state.agent ? `owned by ${state.agent.owner}` : "\u00a0"))),
    el("div", { class: "figure" }, el("dt", {}, "Node"), el("dd", { class: "name" }, (attempt && attempt.node) || "–", el("small", {}, attempt ? attempt.server_name : "none yet"))),
    figure("Attempt", task.attempt || "–", `${task.failures} of ${task.allowed} failed`),
    figure("Waited", took((task.started_at || end) - task.created_at), task.started_at ? "until its first attempt" : "so far"),
    figure("Took", task.started_at ? took(end - task.started_at) : "–", task.started_at && !task.ended_at ? "so far" : task.attempt > 1 ? "with all attempts" : ""));
}

/** Why an attempt has not begun to compute. */
function waiting(attempt) {
  const server = attempt && state.agent && state.agent.servers.find((one) => one.name === attempt.server_name);
  return server && server.state === "waiting" ? `Its server waits for a node: ${server.detail}` : "Its server is starting.";
}

/** One piece for each cell, where they are few enough to be seen. */
function drawProgress() {
  const { task, progress } = state;
  const place = $("progress");
  if (task.state !== "executing" || !progress || progress.attempt !== task.attempt) {
    const attempt = newest();
    const phase = { starting: waiting(attempt), collecting: "Its notebook and artifacts are being fetched.", running: "Its kernel is starting." }[attempt && attempt.phase];
    drawWhenNew(place, [task.state, phase], () => (task.state === "executing" && phase ? el("p", { class: "muted" }, phase) : null));
    return;
  }
  const { cells_done: done, cells_total: total } = progress;
  const doing = done < total;
  drawWhenNew(place, progress, () => [
    el("div", { class: `cells${total > 80 ? " many" : ""}`, role: "progressbar", "aria-label": "Cells executed", "aria-valuemin": 0, "aria-valuemax": total, "aria-valuenow": done },
      total > 80 ? el("i", { class: "done", style: { flexGrow: done } }) : Array.from({ length: total }, (_, index) => el("i", { class: index < done ? "done" : index === done ? "now" : null })),
      total > 80 ? el("i", { style: { flexGrow: total - done } }) : null),
    el("p", { class: "small muted" }, `${done} of ${plural(total, "cell")} executed`,
      doing && progress.current_cell !== null ? el("button", { class: "link", onclick: () => notebook.cell(progress.current_cell) }, `go to the cell that executes`) : null)]);
}

function drawFailure() {
  const { error } = state.task;
  const place = $("failure");
  if (!error || state.task.state === "completed") { drawWhenNew(place, null, () => null); return; }
  drawWhenNew(place, error, () => el("section", { class: "note bad failure", "aria-label": "Why the notebook failed" },
    el("p", {}, el("strong", {}, error.ename), error.evalue ? `: ${error.evalue}` : ""),
    error.cell === null ? null : el("p", { class: "small" }, `Cell ${error.cell}, ${error.line ? `line ${error.line}` : "line unknown; it begins as shown here"}`, ": ",
      el("button", { class: "link", onclick: () => notebook.cell(error.cell) }, "show it in the notebook")),
    error.source_line ? el("pre", { tabindex: "0" }, error.source_line) : null,
    error.traceback.length ? el("details", {}, el("summary", {}, "Traceback"), el("pre", { tabindex: "0" }, error.traceback.join("\n"))) : null));
}

// ---- at the side ----

function drawAttempts() {
  const list = attempts();
  drawWhenNew($("attempts"), [list, state.agent], () => (list.length ? list.map(attemptItem) : el("li", { class: "muted" }, "None yet.")));
}

function attemptItem(attempt) {
  const going = attempt.phase !== "ended";
  const good = attempt.outcome === "completed";
  const word = going ? attempt.phase : good ? "completed" : attempt.outcome === "cancelled" ? "cancelled" : "failed";
  const watch = going && attempt.phase !== "starting" && mayAct(state.agent);
  return el("li", {},
    el("div", { class: "row between" }, el("strong", {}, `Attempt ${attempt.number}`), status(word)),
    el("div", { class: "small muted" }, attempt.node ? `on ${attempt.node}, ` : "", `server ${attempt.server_name}`),
    el("div", { class: "small muted" }, format.time(attempt.started_at), attempt.ended_at ? `, ${took(attempt.ended_at - attempt.started_at)}` : ""),
    good ? null : el("div", { class: "small" }, because({ ...attempt, reason: attempt.outcome })),
    watch ? el("div", { class: "small" }, el("a", { href: labUrl(attempt.agent, attempt.server_name) }, "Open its server in JupyterLab")) : null);
}

function drawArtifacts() {
  const list = [...state.artifacts.values()].sort((a, b) => b.attempt - a.attempt || a.path.localeCompare(b.path));
  const several = new Set(list.map((one) => one.attempt)).size > 1;
  $("artifacts-part").hidden = !list.length;
  drawWhenNew($("artifacts"), list, () => list.map((one) => el("li", {},
    el("a", { href: `${PREFIX}api/v1/tasks/${id}/artifacts/${one.path.split("/").map(encodeURIComponent).join("/")}?attempt=${one.attempt}`, download: one.path.split("/").pop(), title: `SHA-256 ${one.sha256}` }, one.path),
    el("span", { class: "muted small" }, ` ${format.bytes(one.size_bytes)}${several ? `, attempt ${one.attempt}` : ""}`))));
}

function drawChanges() {
  const list = [...state.changes.values()].sort((a, b) => b.number - a.number);
  drawWhenNew($("changes"), list, () => list.map((change) => el("li", {},
    el("div", { class: "row between" }, status(change.state), el("time", { class: "small muted nowrap", datetime: new Date(change.at * 1000).toISOString(), title: format.time(change.at) },
      new Date(change.at * 1000).toLocaleTimeString())),
    el("div", { class: "small" }, because(change), change.by ? el("span", { class: "muted" }, ` (${change.by})`) : null))));
}

function drawRequest() {
  const { task } = state;
  const { request } = task;
  const parameters = Object.entries(request.parameters);
  $("parameters-part").hidden = !parameters.length;
  drawWhenNew($("parameters"), parameters, () => facts(parameters.map(([name, value]) => [el("span", { class: "mono" }, name), el("span", { class: "mono" }, JSON.stringify(value))])));
  drawWhenNew($("request"), [request, task.assignee], () => facts([
    ["Needs", resources(request.options)],
    ["Notebook", request.path ? el("span", { class: "mono" }, request.path) : "uploaded"],
    ["By", `${task.created_by}, ${format.time(task.created_at)}`],
    ["For", task.assignee], ["Project", request.project],
    ["Priority", request.priority || null],
    ["Time limit", format.age(request.timeout_seconds)],
    ["Attempts", `${request.max_attempts}${request.retry_errors ? ", also for its own errors" : ""}`],
    ["Not before", request.not_before_at && format.time(request.not_before_at)],
    ["After", request.after.length ? request.after.map((other) => el("div", {}, el("a", { href: taskUrl(other), class: "mono" }, other))) : null],
    ["Key", request.idempotency_key && el("span", { class: "mono" }, request.idempotency_key)],
    ["Id", el("span", { class: "mono" }, task.id)],
  ]));
}

function drawLinks() {
  const { task } = state;
  drawWhenNew($("notebook-links"), [task.attempt > 0, task.request.path], () => [
    task.attempt || !task.request.path ? el("a", { href: `${PREFIX}api/v1/tasks/${id}/notebook`, download: `${taskName(task)}.ipynb` }, "Download") : null,
    task.attempt && !task.request.path ? el("a", { href: `${PREFIX}api/v1/tasks/${id}/notebook?which=submitted`, download: `${taskName(task)}.ipynb` }, "Download as submitted") : null,
    el("a", { href: $("notebook").dataset.src, target: "_blank", rel: "noopener" }, "Open alone")]);
}

// ---- events ----

let pending = false;
function draw() {
  if (pending || !state.task) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawHead(); drawProgress(); drawFailure(); drawAttempts(); drawArtifacts(); drawChanges(); drawRequest(); drawLinks();
  });
}

function take(view) {
  Object.assign(state, {
    task: view, progress: view.progress,
    attempts: new Map(view.attempts.map((one) => [one.number, one])),
    changes: new Map(view.changes.map((one) => [one.number, one])),
    artifacts: new Map(view.artifacts.map((one) => [`${one.attempt}/${one.path}`, one])),
  });
  notebook.refresh();
  draw();
}

/** The answer to what somebody did here. */
function changed(task) {
  state.task = task;
  start();
}

/** Read everything, and follow the task unless it has ended; somebody may let it go on later. */
async function start() {
  try {
    take(await api("GET", `tasks/${id}`));
    say(null);
  } catch (error) {
    say(error);
    return;
  }
  await readAgent();
  const ended = FINAL.includes(state.task.state);
  if (ended && unfollow) { unfollow(); unfollow = null; }
  if (!ended && !unfollow) listen();
}

async function readAgent() {
  state.agent = await api("GET", `agents/${encodeURIComponent(state.task.agent)}`).catch(() => null); // a project's member need not see it
  draw();
}

function listen() {
  unfollow = follow(`tasks/${id}/events`, {
    task(task) {
      state.task = task;
      draw();
      start(); // with what was not told: it comes first after every connection too
    },
    attempt(attempt) { state.attempts.set(attempt.number, attempt); draw(); },
    change(change) { state.changes.set(change.number, change); draw(); },
    artifact(artifact) { state.artifacts.set(`${artifact.attempt}/${artifact.path}`, artifact); draw(); },
    progress(progress) {
      if (!state.progress || progress.cells_done !== state.progress.cells_done) notebook.refresh();
      state.progress = progress;
      draw();
    },
  });
}

start();
setInterval(() => { if (state.task && !document.hidden && !FINAL.includes(state.task.state)) drawFigures(); }, 1000);
setInterval(() => { if (state.task && !document.hidden && newest() && newest().phase === "starting") readAgent(); }, 4000);
