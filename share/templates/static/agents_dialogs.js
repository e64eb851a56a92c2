// What is done to agents and tasks, and the dialogs that ask for it first (agents_dialogs.html).
"use strict";

/** Show a dialog; `submit(form)` is called with its form, and what it throws is shown in it. */
function openDialog(id, { title, text, go, submit, reset = true }) {
  const dialog = $(id);
  const form = dialog.querySelector("form");
  const error = dialog.querySelector("[data-error]");
  const button = form.querySelector("[data-go]");
  const show = (name, words) => { const place = dialog.querySelector(`[data-${name}]`); if (place && words !== undefined) place.textContent = words; };
  if (reset) form.reset();
  error.hidden = true;
  button.disabled = false;
  show("title", title); show("text", text); show("go", go);
  form.onsubmit = async (event) => {
    if (event.submitter && event.submitter.value === "cancel") return;
    event.preventDefault();
    button.disabled = true;
    error.hidden = true;
    try {
      await submit(form);
      dialog.close();
    } catch (problem) {
      error.textContent = problem.message;
      error.hidden = false;
      error.scrollIntoView({ block: "nearest" });
    } finally {
      button.disabled = false;
    }
  };
  dialog.showModal();
  return form;
}

const words = (text) => text.split(/[\s,]+/).filter(Boolean);
const orNull = (text, factor = 1) => (text.trim() === "" ? null : Number(text) * factor);

/** "zone=a, disk=nvme" → {zone: "a", disk: "nvme"}. */
function labelsOf(text) {
  return Object.fromEntries(words(text).map((pair) => {
    const at = pair.indexOf("=");
    if (at < 1) throw new Error(`a label is written as key=value, and ${pair} is not`);
    return [pair.slice(0, at), pair.slice(at + 1)];
  }));
}

/** Show a new token, this once. */
function showToken(token) {
  const dialog = $("token");
  const url = location.origin + PREFIX;
  $("token-text").textContent = `It is good until ${format.time(token.expires_at)}, and it is shown this once: the farm does not keep it.`;
  $("token-value").value = token.token;
  $("token-copy").onclick = () => copyText($("token-copy"), token.token);
  $("token-use").replaceChildren(
    el("p", { class: "small" }, "Keep it where the agent's other secrets are, and give it to the agent as a variable:"),
    copyable(`export JUPYTERHUB_API_TOKEN='${token.token}'`),
    el("p", { class: "small" }, "It goes into the Authorization header of every request, as in"),
    copyable(`curl -H "Authorization: Bearer $JUPYTERHUB_API_TOKEN" ${url}api/v1/tasks`),
    el("p", { class: "small" }, "For MCP, REST, the command line and VS Code see ", el("a", { href: `${agentUrl(token.agent)}#connect` }, `how ${token.agent} connects`), "."));
  dialog.oncancel = (event) => event.preventDefault(); // one stray Escape, and it is gone
  dialog.addEventListener("close", () => { $("token-value").value = ""; $("token-use").replaceChildren(); }, { once: true });
  $("token-title").textContent = `The token of ${token.agent}`;
  dialog.showModal();
}

/** What is done to an agent: words of the dialog, and the request. */
const ORDERS = {
  token: {
    title: "A new token for", go: "Make a new token",
    text: "The tokens it has now are revoked at once; what it runs goes on.",
    send: (name, form) => api("POST", `agents/${encodeURIComponent(name)}/token`, { expires_in_seconds: Number(form.days.value) * 86400 }),
  },
  suspend: {
    title: "Suspend", go: "Suspend", danger: true,
    text: "Its servers are stopped and its token is refused. Its tasks wait, and go on when it is resumed.",
  },
  resume: {
    title: "Resume", go: "Resume", text: "Its tasks go on. Its old tokens stay revoked: make it a new one afterwards.",
    send: (name) => api("POST", `agents/${encodeURIComponent(name)}/resume`, {}),
  },
  retire: {
    title: "Retire", go: "Retire for good", danger: true,
    send: (name, form) => api("POST", `agents/${encodeURIComponent(name)}/retire`, { reason: form.reason.value, workspace: form.workspace.value }),
    text: "Its servers are stopped, its tokens are revoked at once and its tasks are cancelled. This cannot be taken back, and the name stays taken.",
  },
};

/** Ask for what `verb` needs, do it, and hand what was answered to `then`. */
function orderAgent(verb, name, then) {
  const order = ORDERS[verb];
  const form = openDialog("order", {
    title: `${order.title} ${name}`, text: order.text, go: order.go,
    submit: async (filled) => {
      const send = order.send || (() => api("POST", `agents/${encodeURIComponent(name)}/${verb}`, { reason: filled.reason.value }));
      const answer = await send(name, filled);
      if (verb === "token") setTimeout(() => showToken(answer));
      then(answer);
    },
  });
  $("order-days").hidden = verb !== "token";
  $("order-reason").hidden = !["suspend", "retire"].includes(verb);
  $("order-workspace").hidden = $("order-confirm").hidden = verb !== "retire";
  form.confirm.required = verb === "retire";
  form.confirm.pattern = name.replaceAll(/[^a-z0-9-]/g, "");
  form.confirm.title = `the name of the agent: ${name}`;
  form.querySelector("[data-go]").className = order.danger ? "primary danger-fill" : "primary";
}

/** What may be done to an agent by those who manage agents. */
function verbsOf(agent) {
  if (!MANAGES || agent.state === "retired") return [];
  return agent.state === "active" ? [["token", "New token…"], ["suspend", "Suspend…"], ["retire", "Retire…"]]
    : [["resume", "Resume…"], ["retire", "Retire…"]];
}

function agentButtons(agent, then) {
  return verbsOf(agent).map(([verb, label]) =>
    el("button", { class: verb === "retire" ? "danger" : null, onclick: () => orderAgent(verb, agent.name, then), "aria-label": `${label.replace("…", "")}: ${agent.name}` }, label));
}

/** Show what may be done to an agent, each with what it means. */
function manageAgent(agent, then) {
  const dialog = $("manage");
  $("manage-title").textContent = agent.name;
  $("manage-verbs").replaceChildren(...verbsOf(agent).flatMap(([verb, label]) => [
    el("button", { type: "button", class: verb === "retire" ? "danger" : null, onclick: () => { dialog.close(); orderAgent(verb, agent.name, then); } }, label),
    el("p", { class: "small muted" }, ORDERS[verb].text)]));
  dialog.showModal();
}

// ---- tasks ----

const mayAct = (agent) => Boolean(agent) && (MANAGES || [agent.name, agent.owner].includes(ME));

async function orderTask(task, verb, then) {
  if (verb === "cancel" && !confirm(`Cancel ${taskName(task)}?`)) return;
  try {
    then(await api("POST", `tasks/${task.id}/${verb}`, {}));
  } catch (error) {
    alert(error.message);
  }
}

function handOver(task, then) {
  openDialog("hand-over", {
    title: `Hand over ${taskName(task)}`,
    submit: async (form) => then(await api("POST", `tasks/${task.id}/handover`, { to: form.to.value.trim(), note: form.note.value })),
  });
}

/** Cancel, or retry, whichever makes sense now. */
function taskButton(task, then) {
  const name = taskName(task);
  if (!FINAL.includes(task.state)) {
    if (task.ending) return null;
    return el("button", { class: "danger", "aria-label": `Cancel ${name}`, onclick: () => orderTask(task, "cancel", then) }, "Cancel");
  }
  return task.state === "completed" ? null
    : el("button", { "aria-label": `Try ${name} once more`, onclick: () => orderTask(task, "retry", then) }, "Retry");
}

/** The request that the submission form describes. */
async function requestOf(form) {
  const upload = form.source.value === "upload";
  const request = {
    agent: form.agent.value, name: form.name.value.trim(), parameters: parsed(form.parameters.value, "The parameters", {}),
    options: {
      gpus: Number(form.gpus.value), gpu_memory_bytes: Math.round((orNull(form.gpu_memory.value) || 0) * 2 ** 30), gpu_model: form.gpu_model.value.trim(),
      cpus: orNull(form.cpus.value) || 0, memory_bytes: Math.round((orNull(form.memory.value) || 0) * 2 ** 30),
      kernel: form.kernel.value.trim(), labels: labelsOf(form.labels.value), node: form.node.value.trim() || null,
    },
    priority: Number(form.priority.value), timeout_seconds: Number(form.timeout.value) * 60,
    max_attempts: Number(form.attempts.value), retry_errors: form.retry_errors.checked,
    not_before_at: form.not_before.value ? new Date(form.not_before.value).getTime() / 1000 : null,
    after: words(form.after.value), project: form.project.value.trim() || null,
  };
  if (!upload) return { ...request, path: form.path.value.trim(), notebook: null };
  if (!form.file.files.length) throw new Error("choose a notebook, a file that ends in .ipynb");
  const notebook = parsed(await form.file.files[0].text(), "The file");
  return { ...request, notebook, name: request.name || form.file.files[0].name.replace(/\.ipynb$/, "") };
}

function parsed(text, what, nothing) {
  if (text.trim() === "" && nothing !== undefined) return nothing;
  let value;
  try { value = JSON.parse(text); } catch (problem) { throw new Error(`${what} cannot be read as JSON: ${problem.message}`); }
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error(`${what} must be a JSON object, as in {"size": 3}`);
  return value;
}

/** Ask for a task of one of these agents and submit it. */
function submitTask(names, then) {
  const form = openDialog("submit", { submit: async (filled) => then(await api("POST", "tasks", await requestOf(filled))) });
  form.agent.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  const choose = () => {
    const upload = form.source.value === "upload";
    $("submit-file").hidden = !upload;
    $("submit-path").hidden = upload;
    form.path.required = !upload;
    form.file.required = upload;
  };
  for (const radio of form.source) radio.onchange = choose;
  choose();
}
