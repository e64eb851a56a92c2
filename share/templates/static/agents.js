// The overview's upper half: figures and agents.
"use strict";

const SHOWN_AGENTS = 15;
const farm = { agents: new Map(), counts: {}, all: false };

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
  const count = (...states) => states.reduce((sum, state) => sum + (farm.counts[state] || 0), 0);
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

/** "1 of 2 servers": marked when nothing is left. */
function use(used, limit, word) {
  const of = limit === null || limit === undefined ? "" : ` of ${limit.toLocaleString()}`;
  const shown = typeof used === "number" && !Number.isInteger(used) ? used.toFixed(1) : used;
  return el("div", { class: limit !== null && limit !== undefined && used >= limit && limit > 0 ? "warn" : null }, `${shown}${of} ${word}`);
}

function serverLine(agent, server) {
  const name = server.name || "default";
  const open = [agent.name, agent.owner].includes(ME) || MANAGES;
  return el("div", { class: "nowrap" },
    open && server.ready ? el("a", { href: labUrl(agent.name, server.name), title: "Open in JupyterLab" }, name) : name,
    el("span", { class: "muted" }, server.node ? ` on ${server.node}` : " not placed yet"));
}

function taskCounts(agent) {
  const counts = TASK_STATES.filter((state) => agent.tasks[state]);
  if (!counts.length) return el("span", { class: "muted" }, "none yet");
  return el("div", { class: "counts" }, counts.map((state) =>
    el("button", { class: "link", onclick: () => board.choose({ agent: agent.name, states: [state] }), title: `Show the ${state} tasks of ${agent.name}` },
      `${agent.tasks[state].toLocaleString()} ${state}`)));
}

function agentRow(agent) {
  const limits = agent.limits;
  return el("tr", {},
    el("td", { "data-label": "Agent" }, el("a", { href: agentUrl(agent.name), class: "strong" }, agent.name),
      agent.description ? el("div", { class: "small muted clip", title: agent.description }, agent.description) : null),
    el("td", { "data-label": "Owner" }, agent.owner),
    el("td", { "data-label": "State" }, status(agent.state, agent.detail)),
    el("td", { "data-label": "Servers", class: "small" }, agent.servers.length ? agent.servers.map((server) => serverLine(agent, server)) : el("span", { class: "muted" }, "none")),
    el("td", { "data-label": "Tasks", class: "small" }, taskCounts(agent)),
    el("td", { "data-label": "In use", class: "small nowrap" },
      use(agent.usage.servers, limits.servers, "servers"), use(agent.usage.gpus, limits.gpus, "GPUs"),
      agent.usage.gpu_hours === null && limits.gpu_hours === null ? null : use(agent.usage.gpu_hours ?? 0, limits.gpu_hours, "GPU-hours")),
    el("td", { "data-label": "Last seen", class: "number" }, agent.last_seen_at ? since(agent.last_seen_at) : el("span", { class: "muted" }, "never")),
    MANAGES ? el("td", {}, el("div", { class: "row tight" }, agentButtons(agent, refreshAgents))) : null);
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
    : el("tr", {}, el("td", { class: "empty", colspan: 8 }, nothing))));
  const mine = all.filter((agent) => agent.state === "active" && mayAct(agent)).map((agent) => agent.name);
  $("submit-open").hidden = !mine.length;
  $("submit-open").onclick = () => submitTask(mine, (task) => { location.href = taskUrl(task.id); });
  board.knowAgents(all);
}

async function refreshAgents() {
  try {
    const { agents } = await api("GET", "agents");
    farm.agents = new Map(agents.map((agent) => [agent.name, agent]));
    say(null);
    drawAgents();
    drawFigures();
  } catch (error) {
    say(error);
  }
}

/** Ask anew, at most every two seconds, however much happens. */
let asked = null;
function refreshSoon() {
  if (asked) return;
  asked = setTimeout(async () => {
    if (!document.hidden) await Promise.all([refreshAgents(), board.count()]);
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
  refreshAgents();
  setInterval(() => { if (!document.hidden) refreshAgents(); }, 15000); // servers and usage come from elsewhere
  follow("events", {
    task(task) { board.take(task); refreshSoon(); },
    agent() { refreshSoon(); },
  });
});
