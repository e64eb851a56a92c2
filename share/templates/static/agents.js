// The overview's upper half: figures and agents.
"use strict";

const SHOWN_AGENTS = 8;
const COUNTED = [["executing", ["executing"]], ["waiting", ["available", "scheduled", "retryable"]], ["completed", ["completed"]], ["discarded", ["discarded"]]];
const farm = { agents: new Map(), all: false };

/** How many tasks there are in each state, of one agent or of all that are seen here. */
function countsOf(name) {
  const counts = {};
  for (const agent of farm.agents.values()) {
    if (name && agent.name !== name) continue;
    for (const [state, count] of Object.entries(agent.tasks)) counts[state] = (counts[state] || 0) + count;
  }
  return counts;
}

function say(error) {
  $("message").textContent = error ? error.message : "";
  $("message").hidden = !error;
}

// ---- figures ----

function drawFigures() {
  const agents = [...farm.agents.values()];
  const active = agents.filter((agent) => agent.state === "active");
  const servers = agents.reduce((sum, agent) => sum + agent.servers.length, 0);
  const nodes = new Set(agents.flatMap((agent) => agent.servers.map((server) => server.node)).filter(Boolean));
  const counts = countsOf("");
  const count = (...states) => states.reduce((sum, state) => sum + (counts[state] || 0), 0);
  const figures = [
    ["Agents active", active.length, `of ${agents.filter((agent) => agent.state !== "retired").length}`],
    ["Their servers", servers, servers ? `on ${plural(nodes.size, "node")}` : ""],
    ["Executing", count("executing"), count("executing") === 1 ? "task" : "tasks"],
    ["Waiting", count("available", "scheduled", "retryable"), count("retryable") ? `${count("retryable").toLocaleString()} to be tried again` : "tasks"],
    ["Completed", count("completed").toLocaleString(), "tasks"],
    ["Discarded", count("discarded").toLocaleString(), "tasks"],
  ];
  drawWhenNew($("figures"), figures, () => figures.map((each) => figure(...each)));
}

// ---- agents ----

/** "1 of 2 servers". */
function use(used, limit, word) {
  return el("span", { class: "part" }, `${Number.isInteger(used) ? used : used.toFixed(1)}${limit === null ? "" : ` of ${limit.toLocaleString()}`} ${word}`);
}

function serverLine(agent, server) {
  const name = server.name || "default";
  const open = [agent.name, agent.owner].includes(ME) || MANAGES;
  return el("div", { class: "nowrap" },
    open && server.state === "running" ? el("a", { href: `${server.url}lab`, title: "Open in JupyterLab" }, name) : name,
    el("span", { class: "muted" }, server.node ? ` on ${server.node}` : " not placed yet"));
}

function serverLines(agent) {
  const shown = agent.servers.slice(0, 3).map((server) => serverLine(agent, server));
  if (agent.servers.length > 3) shown.push(el("div", { class: "muted" }, `and ${agent.servers.length - 3} more`));
  return shown.length ? shown : el("span", { class: "muted" }, "none");
}

function taskCounts(agent) {
  const counts = COUNTED.map(([word, states]) => [word, states, states.reduce((sum, state) => sum + (agent.tasks[state] || 0), 0)]).filter(([, , count]) => count);
  if (!counts.length) return el("span", { class: "muted" }, "none yet");
  return el("div", { class: "counts" }, counts.map(([word, states, count]) =>
    el("button", { class: "link", onclick: () => showTasks({ agent: agent.name, states }), title: `Show the tasks of ${agent.name} that are ${states.join(", ")}` },
      `${count.toLocaleString()} ${word}`)));
}

function showTasks(filter) {
  board.choose(filter);
  $("tasks-heading").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function agentRow(agent) {
  const limits = agent.limits;
  return el("tr", {},
    cell("Agent", {}, el("div", { class: "tagged" }, el("a", { href: agentUrl(agent.name), class: "strong" }, agent.name), status(agent.state, agent.detail)),
      el("div", { class: "small muted clip", title: agent.description }, `of ${agent.owner}${agent.description ? `: ${agent.description}` : ""}`)),
    cell("Servers", { class: "small" }, serverLines(agent)),
    cell("Tasks", { class: "small" }, taskCounts(agent)),
    cell("In use", { class: "small parts" },
      agent.usage ? [use(agent.usage.servers, limits.servers, "servers"), limits.gpus || agent.usage.gpus ? use(agent.usage.gpus, limits.gpus, "GPUs") : null,
        limits.gpu_hours === null && !agent.usage.gpu_hours ? null : use(agent.usage.gpu_hours, limits.gpu_hours, "GPU-hours")]
        : el("span", { class: "muted" }, "not known now")),
    cell("Last seen", { class: "number" }, agent.last_seen_at ? since(agent.last_seen_at) : el("span", { class: "muted" }, "never")),
    MANAGES ? el("td", {}, agent.state === "retired" ? null : el("button", { onclick: () => manageAgent(agent, refreshAgents), "aria-label": `Manage ${agent.name}` }, "Manage…")) : null);
}

function drawAgents() {
  const text = $("agents-text").value.trim().toLowerCase();
  const all = [...farm.agents.values()].sort((a, b) =>
    (a.state === "retired") - (b.state === "retired") || a.name.localeCompare(b.name, undefined, { numeric: true }));
  const wanted = all.filter((agent) => `${agent.name} ${agent.owner} ${agent.description} ${agent.state}`.toLowerCase().includes(text));
  const shown = farm.all || text ? wanted : wanted.slice(0, SHOWN_AGENTS);
  $("agents-filter").hidden = all.length <= 5;
  $("agents-more").hidden = shown.length === wanted.length;
  $("agents-more").textContent = `Show all ${wanted.length} agents`;
  const nothing = text ? "No agent is called so."
    : MANAGES ? "There are no agents yet. Register the first one: it becomes a user of the Hub with a token and limits of its own."
      : "There is no agent of yours. An admin registers agents, and makes you the owner of one.";
  drawWhenNew($("agents"), [shown, nothing], () => (shown.length ? shown.map(agentRow)
    : el("tr", {}, el("td", { class: "empty", colspan: 6 }, nothing))));
  const mine = all.filter((agent) => agent.state === "active" && mayAct(agent)).map((agent) => agent.name);
  $("submit-open").hidden = !mine.length;
  $("submit-open").onclick = () => submitTask(mine, (task) => { location.href = taskUrl(task.id); });
  board.knowAgents(all);
}

async function refreshAgents() {
  try {
    const { agents } = await api("GET", "agents?all=1");
    farm.agents = new Map(agents.map((agent) => [agent.name, agent]));
    say(null);
    drawAgents();
    drawFigures();
    board.countsChanged();
  } catch (error) {
    say(error);
  }
}

/** Ask anew, at most every two seconds, however much happens. */
let asked = null;
function refreshSoon() {
  if (asked) return;
  asked = setTimeout(async () => {
    if (!document.hidden) await refreshAgents();
    asked = null;
  }, 2000);
}

// ---- registering ----

function register() {
  openDialog("register", {
    submit: async (form) => {
      const answer = await api("POST", "agents", {
        name: form.name.value.trim(), description: form.description.value, owner: form.owner.value.trim(),
        labels: labelsOf(form.labels.value), kernels: words(form.kernels.value), projects: words(form.projects.value),
        limits: { servers: Number(form.servers.value), gpus: Number(form.gpus.value), gpu_hours: orNull(form.gpu_hours.value) },
        expires_in_seconds: orNull(form.expires.value, 86400), token_expires_in_seconds: Number(form.token_days.value) * 86400,
      });
      setTimeout(() => showToken(answer.token)); // after this dialog has closed
      refreshAgents();
    },
  });
}

addEventListener("DOMContentLoaded", () => {
  if ($("register-open")) $("register-open").onclick = register;
  $("agents-text").oninput = drawAgents;
  $("agents-more").onclick = () => { farm.all = true; drawAgents(); };
  board.open();
  refreshAgents().then(() => { if (location.hash) $(location.hash.slice(1))?.scrollIntoView(); }); // now that what is above is there
  setInterval(() => { if (!document.hidden) refreshAgents(); }, 15000); // servers and usage come from elsewhere
  follow("events", {
    change({ task }) { board.take(task); refreshSoon(); },
  });
});
