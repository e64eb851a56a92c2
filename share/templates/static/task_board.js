// The overview's lower half: tasks, by filters that the page's address holds.
"use strict";

const board = (() => {
  const PAGE = 50;
  const tasks = new Map(); // id → task, those that are shown or could be
  const rows = new Map(); // id → {key, row}
  let filter = { states: [], agent: "", project: "", text: "" };
  let cursor = null;
  let loading = 0;
  let counts = {};

  // ---- filters ----

  function fromAddress() {
    const query = new URLSearchParams(location.search);
    filter = {
      states: (query.get("state") || "").split(",").filter((state) => TASK_STATES.includes(state)),
      agent: query.get("agent") || "", project: query.get("project") || "", text: query.get("text") || "",
    };
  }

  function query(rest) {
    const found = new URLSearchParams();
    if (filter.states.length) found.set("state", filter.states.join(","));
    for (const name of ["agent", "project", "text"]) if (filter[name]) found.set(name, filter[name]);
    for (const [name, value] of Object.entries(rest || {})) found.set(name, value);
    const text = found.toString();
    return text ? `?${text}` : "";
  }

  function matches(task) {
    const text = filter.text.toLowerCase();
    return (!filter.states.length || filter.states.includes(task.state))
      && (!filter.agent || task.agent === filter.agent)
      && (!filter.project || task.request.project === filter.project)
      && (!text || [task.request.name, task.request.path, task.id, task.detail, task.reason].some((each) => (each || "").toLowerCase().includes(text)));
  }

  function choose(changes) {
    filter = { ...filter, ...changes };
    history.replaceState(null, "", location.pathname + query());
    drawFilter();
    load();
  }

  function drawFilter() {
    const total = TASK_STATES.reduce((sum, state) => sum + (counts[state] || 0), 0);
    const chip = (label, count, on, press) => el("button", { class: "chip", "aria-pressed": String(on), onclick: press }, label, " ",
      el("span", { class: "count" }, (count || 0).toLocaleString()));
    drawWhenNew($("states"), [counts, filter], () => [
      chip("all", total, !filter.states.length, () => choose({ states: [] })),
      TASK_STATES.map((state) => chip(state, counts[state], filter.states.includes(state), () => choose({
        states: filter.states.includes(state) ? filter.states.filter((other) => other !== state) : [...filter.states, state],
      })))]);
    for (const [id, value] of [["filter-text", filter.text], ["filter-agent", filter.agent], ["filter-project", filter.project]]) {
      if ($(id) !== document.activeElement) $(id).value = value;
    }
    $("filter-clear").hidden = !(filter.states.length || filter.agent || filter.project || filter.text);
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

  function where(task) {
    if (task.state === "executing") return task.node ? `on ${task.node}${task.ending ? ", is being ended" : ""}` : because(task);
    return because(task);
  }

  function row(task) {
    const tries = task.attempt ? `${task.attempt}${task.allowed > 1 ? ` of ${Math.max(task.allowed, task.attempt)}` : ""}` : "–";
    return el("tr", {},
      el("td", { "data-label": "State" }, status(taskState(task))),
      el("td", { "data-label": "Task" }, el("a", { href: taskUrl(task.id), class: "strong" }, taskName(task)),
        task.request.project ? el("span", { class: "tag" }, task.request.project) : null,
        task.request.priority ? el("span", { class: "tag" }, `priority ${task.request.priority}`) : null,
        task.assignee ? el("span", { class: "tag" }, `for ${task.assignee}`) : null),
      el("td", { "data-label": "Agent" }, el("a", { href: agentUrl(task.agent), class: "plain" }, task.agent)),
      el("td", { "data-label": "Why", class: "small why" }, where(task)),
      el("td", { "data-label": "Attempt", class: "number" }, tries),
      el("td", { "data-label": "Since", class: "number" }, since(task.changed_at)),
      el("td", {}, mayAct(farm.agents.get(task.agent)) ? taskButton(task, take) : null));
  }

  function rowOf(task) {
    const key = JSON.stringify([task, mayAct(farm.agents.get(task.agent))]);
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
      const some = filter.states.length || filter.agent || filter.project || filter.text;
      const nothing = loading ? "Loading…" : some ? "No task is like this." : "There are no tasks yet. A task is a notebook that an agent has executed on the farm: submit one here, by the API or with agentfarm tasks submit.";
      fillRows(body, [], 7, nothing);
    } else {
      const made = shown.map(rowOf);
      if (made.length !== body.children.length || made.some((one, index) => body.children[index] !== one)) replaceKeepingFocus(body, made);
    }
    const total = (filter.states.length ? filter.states : TASK_STATES).reduce((sum, state) => sum + (counts[state] || 0), 0);
    $("tasks-more").hidden = !cursor;
    $("tasks-shown").textContent = cursor ? `${shown.length.toLocaleString()} of ${Math.max(total, shown.length).toLocaleString()} tasks, the newest first` : "";
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
    const mine = ++loading; // an answer to an older filter is no answer
    if (!next) { tasks.clear(); cursor = null; }
    drawRows();
    try {
      const page = await api("GET", `tasks${query({ limit: PAGE, ...(next ? { cursor: next } : {}) })}`);
      if (mine !== loading) return;
      for (const task of page.tasks) tasks.set(task.id, task);
      cursor = page.cursor;
      setCounts(page.counts);
    } catch (error) {
      if (mine !== loading) return;
      say(error);
    }
    loading = 0;
    drawRows();
  }

  function setCounts(found) {
    counts = found;
    if (!filter.agent && !filter.project && !filter.text) { farm.counts = found; drawFigures(); }
    drawFilter();
  }

  async function count() {
    const asking = JSON.stringify(filter);
    const [filtered, all] = await Promise.all([
      api("GET", `tasks${query({ limit: 1 })}`), filter.agent || filter.project || filter.text ? api("GET", "tasks?limit=1") : null,
    ]).catch(() => [null, null]);
    if (filtered && asking === JSON.stringify(filter)) setCounts(filtered.counts);
    if (all) { farm.counts = all.counts; drawFigures(); }
    drawRows();
  }

  /** Take what was told or answered about a task. */
  function take(task) {
    const known = tasks.get(task.id);
    const oldest = Math.min(...[...tasks.values()].map((each) => each.created_at));
    if (known || !cursor || task.created_at >= oldest) tasks.set(task.id, known && task.node === undefined && known.attempt === task.attempt ? { ...task, node: known.node } : task);
    draw();
  }

  function open() {
    fromAddress();
    let typing = null;
    $("filter-text").oninput = () => { clearTimeout(typing); typing = setTimeout(() => choose({ text: $("filter-text").value.trim() }), 250); };
    $("filter-agent").onchange = () => choose({ agent: $("filter-agent").value });
    $("filter-project").onchange = () => choose({ project: $("filter-project").value });
    $("filter-clear").onclick = () => choose({ states: [], agent: "", project: "", text: "" });
    $("tasks-more").onclick = () => load(cursor);
    drawFilter();
    load();
    if (filter.agent || filter.project || filter.text) count();
  }

  return { open, choose, take, count, knowAgents };
})();
