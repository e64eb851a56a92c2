// An agent's page.
"use strict";

const name = $("agent").dataset.agent;
const shown = { agent: null, tasks: new Map() };

function say(error) {
  $("message").textContent = error ? error.message : "";
  $("message").hidden = !error;
}

function limitFigure(word, used, limit, digits = 0) {
  const show = (value) => (value === null || value === undefined ? "–" : value.toLocaleString(undefined, { maximumFractionDigits: digits }));
  return el("div", { class: "figure" }, el("dt", {}, word), el("dd", {}, show(used), el("small", {}, limit === null ? "no limit of its own" : `of ${show(limit)}`)),
    limit === null ? null : el("div", { class: "track", role: "presentation" }, el("i", { style: { width: `${Math.min(100, limit ? (100 * (used || 0)) / limit : 0)}%` } })));
}

function draw() {
  const { agent } = shown;
  const usage = agent.usage || {};
  drawWhenNew($("state"), [agent.state, agent.detail, agent.left_to_do], () => [status(agent.state),
    agent.detail ? el("span", { class: "muted" }, agent.detail) : null,
    agent.left_to_do ? el("span", { class: "warn small" }, `still to be done: ${agent.left_to_do}`) : null]);
  drawWhenNew($("actions"), agent.state, () => agentButtons(agent, refresh));
  drawWhenNew($("figures"), [agent.usage, agent.limits, agent.tasks, agent.kept_bytes], () => [
    limitFigure("Servers", usage.servers, agent.limits.servers), limitFigure("GPUs", usage.gpus, agent.limits.gpus),
    limitFigure(usage.window_hours ? `GPU-hours in ${usage.window_hours < 48 ? plural(usage.window_hours, "hour") : plural(Math.round(usage.window_hours / 24), "day")}` : "GPU-hours", usage.gpu_hours, agent.limits.gpu_hours, 1),
    figure("Tasks completed", (agent.tasks.completed || 0).toLocaleString(), `of ${Object.values(agent.tasks).reduce((sum, count) => sum + count, 0).toLocaleString()}`),
    figure("Discarded", (agent.tasks.discarded || 0).toLocaleString(), "tasks"),
    figure("Results kept", format.bytes(agent.kept_bytes), agent.max_kept_bytes ? `of ${format.bytes(agent.max_kept_bytes)}` : "")]);
  drawServers();
  drawTasks();
  drawWhenNew($("facts"), agent, () => facts([
    ["Owner", agent.owner], ["Kernels", agent.kernels.join(", ") || "any"],
    ["Nodes", Object.entries(agent.labels).map(([key, value]) => el("span", { class: "tag" }, `${key}=${value}`)).flatMap((tag) => [tag, " "])],
    ["Projects", agent.projects.join(", ")],
    ["Last seen", agent.last_seen_at ? since(agent.last_seen_at) : "never"],
    ["Registered", `${format.time(agent.created_at)} by ${agent.created_by}`],
    ["Its end", agent.ended_at ? format.time(agent.ended_at) : agent.expires_at ? `retired ${format.time(agent.expires_at)}` : "none is set"],
  ]).filter((part) => part.textContent !== "" || part.tagName === "DT"));
  $("submit-open").hidden = agent.state !== "active" || !mayAct(agent);
}

function drawServers() {
  const { agent } = shown;
  drawWhenNew($("servers"), agent.servers, () => (agent.servers.length ? agent.servers.map((server) => el("tr", {},
    cell("Server", {}, server.name || el("span", { class: "muted" }, "default")),
    cell("State", {}, status(server.state), server.detail ? el("div", { class: "small muted" }, server.detail) : null),
    cell("Node", {}, server.node || "–"), cell("GPUs", { class: "number" }, server.gpus || "none"),
    cell("Since", { class: "number" }, since(server.since_at)),
    el("td", {}, server.state === "running" && mayAct(agent) ? el("a", { class: "button", href: `${server.url}lab`, "aria-label": `Open ${server.name || "the default server"} in JupyterLab` }, "Open in JupyterLab") : null)))
    : el("tr", {}, el("td", { class: "empty", colspan: 6 }, "It has no server now. One is started for its next task, or when it asks for one."))));
}

function drawTasks() {
  const list = [...shown.tasks.values()].sort((a, b) => b.created_at - a.created_at).slice(0, 10);
  drawWhenNew($("tasks"), list, () => (list.length ? list.map((task) => el("tr", {},
    cell("State", {}, status(taskState(task))),
    cell("Task", {}, el("a", { href: taskUrl(task.id), class: "strong" }, taskName(task))),
    cell("Why", { class: "small why" }, task.state === "executing" ? "" : because(task)),
    cell("Attempt", { class: "number" }, task.attempt || "–"),
    cell("Since", { class: "number" }, since(task.changed_at))))
    : el("tr", {}, el("td", { class: "empty", colspan: 5 }, "It has no tasks yet."))));
}

async function refresh() {
  try {
    const [agent, page] = await Promise.all([api("GET", `agents/${encodeURIComponent(name)}`), api("GET", `tasks?agent=${encodeURIComponent(name)}&limit=10`)]);
    shown.agent = agent;
    shown.tasks = new Map(page.tasks.map((task) => [task.id, task]));
    say(null);
    draw();
  } catch (error) {
    say(error);
  }
}

for (const place of document.querySelectorAll("time[data-time]")) place.textContent = format.time(Number(place.dataset.time));
for (const place of document.querySelectorAll("[data-copyable]")) place.replaceWith(copyable(place.textContent.replaceAll("{origin}", location.origin)));
if (location.hash === "#connect") $("connect").scrollIntoView();
$("submit-open").onclick = () => submitTask([name], (task) => { location.href = taskUrl(task.id); });
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 10000);
follow("events", {
  change({ task }) { if (task.agent === name && shown.agent) { shown.tasks.set(task.id, task); draw(); } },
});
