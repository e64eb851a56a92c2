// The overview's lower half: tasks, by filters that the page's address holds.
"use strict";

const board = (() => {
  const PAGE = 50;
  const tasks = new Map(); // id → task, those that are shown or could be
  const rows = new Map(); // id → {key, row}
  let filter = { states: [], agent: "", project: "", name: "" };
  let cursor = null;
  let loading = false;
  let asked = 0; // an answer to an older filter is no answer
  let counts = null;

  // ---- filters ----

  function fromAddress() {
    const query = new URLSearchParams(location.search);
    filter = {
      states: query.getAll("state").filter((state) => TASK_STATES.includes(state)),
      agent: query.get("agent") || "", project: query.get("project") || "", name: query.get("name") || "",
    };
  }

  function query(rest) {
    const found = new URLSearchParams();
    for (const state of filter.states) found.append("state", state);
    for (const name of ["agent", "project", "name"]) if (filter[name]) found.set(name, filter[name]);
    for (const [name, value] of Object.entries(rest || {})) found.set(name, value);
    const text = found.toString();
    return text ? `?${text}` : "";
  }

  function matches(task) {
    return (!filter.states.length || filter.states.includes(task.state))
      && (!filter.agent || task.agent === filter.agent)
      && (!filter.project || task.request.project === filter.project)
      && task.request.name.toLowerCase().includes(filter.name.toLowerCase());
  }

  function choose(changes) {
    filter = { ...filter, ...changes };
    history.replaceState(null, "", location.pathname + query());
    countsChanged();
    load();
  }

  /** How many tasks there are in these states; null where that is not known. */
  function total(states) {
    return counts && states.reduce((sum, state) => sum + (counts[state] || 0), 0);
  }

  function drawFilter() {
    const chip = (label, count, on, press) => el("button", { class: "chip", "aria-pressed": String(on), onclick: press }, label,
      count === null ? null : el("span", { class: "count" }, ` ${count.toLocaleString()}`));
    drawWhenNew($("states"), [counts, filter], () => [
      chip("all", total(TASK_STATES), !filter.states.length, () => choose({ states: [] })),
      TASK_STATES.map((state) => chip(state, total([state]), filter.states.includes(state), () => choose({
        states: filter.states.includes(state) ? filter.states.filter((other) => other !== state) : [...filter.states, state],
      })))]);
    for (const [id, value] of [["filter-text", filter.name], ["filter-agent", filter.agent], ["filter-project", filter.project]]) {
      if ($(id) !== document.activeElement) $(id).value = value;
    }
    $("filter-clear").hidden = !(filter.states.length || filter.agent || filter.project || filter.name);
  }

  function options(select, names, all) {
    const chosen = select === $("filter-agent") ? filter.agent : filter.project;
    const known = [...new Set([...names, chosen].filter(Boolean))].sort();
    drawWhenNew(select, known, () => [el("option", { value: "" }, all), known.map((name) => el("option", { value: name }, name))]);
    select.value = chosen;
  }

  function knowAgents(agents) {
    options($("filter-agent"), agents.map((agent) => agent.name), "All agents");
    const projects = [...new Set([...agents.flatMap((agent) => agent.projects), ...[...tasks.values()].map((task) => task.request.project)].filter(Boolean))];
    $("projects").hidden = !projects.length && !filter.project;
    options($("filter-project"), projects, "All projects");
  }

  // ---- rows ----

  /** Why a task is as it is; of one that executes, where. */
  function why(task) {
    if (task.state === "completed" && task.started_at) return `took ${took(task.ended_at - task.started_at)}`;
    if (task.state !== "executing") return because(task);
    if (task.ending) return REASONS[task.ending];
    const agent = farm.agents.get(task.agent);
    const server = agent && agent.servers.find((one) => one.name === task.server_name);
    return server && server.node ? `on ${server.node}` : server && server.detail ? server.detail : "";
  }

  function row(task) {
    const tries = task.attempt ? `${task.attempt}${task.allowed > 1 ? ` of ${Math.max(task.allowed, task.attempt)}` : ""}` : "–";
    return el("tr", {},
      cell("State", {}, status(taskState(task))),
      cell("Task", {}, el("div", { class: "tagged" }, el("a", { href: taskUrl(task.id), class: "strong" }, taskName(task)),
        task.request.project ? el("span", { class: "tag" }, task.request.project) : null,
        task.request.priority ? el("span", { class: "tag" }, `priority ${task.request.priority}`) : null,
        task.assignee ? el("span", { class: "tag" }, `for ${task.assignee}`) : null)),
      cell("Agent", { class: "nowrap" }, el("a", { href: agentUrl(task.agent), class: "plain" }, task.agent)),
      cell("Why", { class: "small why" }, why(task)),
      cell("Attempt", { class: "number" }, tries),
      cell("Since", { class: "number" }, since(task.changed_at)),
      el("td", {}, mayAct(farm.agents.get(task.agent)) ? taskButton(task, take) : null));
  }

  function rowOf(task) {
    const key = JSON.stringify([task, mayAct(farm.agents.get(task.agent)), why(task)]);
    const known = rows.get(task.id);
    if (known && known.key === key) return known.row;
    const made = row(task);
    rows.set(task.id, { key, row: made });
    return made;
  }

  let pending = false;
  function draw() { // at most once per frame, however many events arrive
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      drawRows();
    });
  }

  function drawRows() {
    const shown = [...tasks.values()].filter(matches).sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1));
    for (const id of rows.keys()) if (!tasks.has(id)) rows.delete(id);
    const body = $("tasks");
    if (!shown.length) {
      const some = filter.states.length || filter.agent || filter.project || filter.name;
      const nothing = loading ? "Loading…" : some ? "No task is like this." : "There are no tasks yet. A task is a notebook that an agent has executed on the farm: submit one here, by the API or with agentfarm tasks submit.";
      fillRows(body, [], 7, nothing);
    } else {
      const made = shown.map(rowOf);
      if (made.length !== body.children.length || made.some((one, index) => body.children[index] !== one)) replaceKeepingFocus(body, made);
    }
    const all = total(filter.states.length ? filter.states : TASK_STATES);
    $("tasks-more").hidden = !cursor;
    $("tasks-shown").textContent = cursor ? `the newest ${shown.length.toLocaleString()}${all === null ? "" : ` of ${Math.max(all, shown.length).toLocaleString()}`}` : "";
  }

  function replaceKeepingFocus(body, made) {
    const focused = body.contains(document.activeElement) ? document.activeElement : null;
    const label = focused && (focused.getAttribute("aria-label") || focused.textContent);
    body.replaceChildren(...made);
    if (!focused) return;
    if (body.contains(focused)) focused.focus();
    else [...body.querySelectorAll("a, button")].find((one) => (one.getAttribute("aria-label") || one.textContent) === label)?.focus();
  }

  // ---- what is known ----

  /** Load the first page of what the filter wants, or the next one. */
  async function load(next) {
    const mine = ++asked;
    loading = true;
    if (!next) { tasks.clear(); cursor = null; }
    drawRows();
    try {
      const page = await api("GET", `tasks${query({ limit: PAGE, ...(next ? { cursor: next } : {}) })}`);
      if (mine !== asked) return;
      for (const task of page.tasks) tasks.set(task.id, task);
      cursor = page.cursor;
    } catch (error) {
      if (mine !== asked) return;
      say(error);
    }
    loading = false;
    drawRows();
  }

  /** Numbers beside the states are known for all that is seen, and for one agent. */
  function countsChanged() {
    counts = filter.project || filter.name ? null : countsOf(filter.agent);
    drawFilter();
    draw();
  }

  /** Take what was told or answered about a task. */
  function take(task) {
    const known = tasks.get(task.id);
    const oldest = Math.min(...[...tasks.values()].map((each) => each.created_at));
    if (known || !cursor || task.created_at >= oldest) tasks.set(task.id, task);
    draw();
  }

  function open() {
    fromAddress();
    let typing = null;
    $("filter-text").oninput = () => { clearTimeout(typing); typing = setTimeout(() => choose({ name: $("filter-text").value.trim() }), 250); };
    $("filter-agent").onchange = () => choose({ agent: $("filter-agent").value });
    $("filter-project").onchange = () => choose({ project: $("filter-project").value });
    $("filter-clear").onclick = () => choose({ states: [], agent: "", project: "", name: "" });
    $("tasks-more").onclick = () => load(cursor);
    drawFilter();
    load();
  }

  return { open, choose, take, countsChanged, knowAgents };
})();
