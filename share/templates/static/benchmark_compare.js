// A run against another one: the median of each case's figure, on each node that both had.
"use strict";

/** The median primary figure of a case, and how many results it is of. */
function figureOf(view, name, node) {
  const good = view.results.filter((one) => one.case === name && one.outcome === "succeeded" && !one.warm_up && (!node || one.node === node));
  const primary = good.length ? good.at(-1).primary : null;
  const values = primary ? good.map((one) => one.figures[primary]).filter((value) => typeof value === "number") : [];
  return { primary, value: median(values), seconds: median(good.map((one) => one.duration_seconds).filter((value) => value !== null)), results: good.length };
}

function casesOf(view) { return (view.definition.cases || []).map((one) => one.name); }

/** A relative change as text with a class. */
function changeText(ratio) {
  if (ratio === null) return el("span", { class: "muted" }, "–");
  const kind = Math.abs(ratio) < 0.03 ? "" : ratio > 0 ? "good" : "bad";
  return el("span", { class: `change ${kind}` }, `${ratio >= 0 ? "+" : "−"}${Math.abs(ratio * 100).toFixed(1)} %`);
}

/** How much faster a case has become on a node: by its figure, or by its time where the figures are not the same. */
function changeOf(now, before) {
  const same = now.primary && now.primary === before.primary;
  const [later, earlier] = same ? [now.value, before.value] : [before.seconds, now.seconds];
  return { same, ratio: later === null || earlier === null || !earlier ? null : later / earlier - 1 };
}

function caseRows(view, other, name, shared) {
  const each = shared.map((node) => {
    const [now, before] = [figureOf(view, name, node), figureOf(other, name, node)];
    return { node, now, before, ...changeOf(now, before) };
  });
  const known = each.map((one) => one.ratio).filter((ratio) => ratio !== null);
  const mean = known.length ? Math.exp(known.reduce((sum, ratio) => sum + Math.log1p(ratio), 0) / known.length) - 1 : null;
  const cell = (label, text) => el("td", { class: "number", "data-label": label }, text);
  const head = el("tr", {}, el("td", { "data-label": "Case" }, el("b", {}, name)), el("td", { "data-label": "Node" }, el("b", {}, known.length === 1 ? "1 node" : `mean of ${known.length} nodes`)), cell("Before", ""), cell("Now", ""), cell("Change", changeText(mean)), cell("Results", ""));
  return [head, ...each.map((one) => {
    const shown = (figure) => (one.same ? `${number(figure.value)} ${unit(figure.primary)}` : took(figure.seconds));
    return el("tr", {}, el("td", { "data-label": "Case" }, el("span", { class: "muted" }, name)), el("td", { "data-label": "Node" }, one.node),
      cell("Before", shown(one.before)), cell("Now", shown(one.now)), cell("Change", changeText(one.ratio)), cell("Results", `${one.before.results} / ${one.now.results}`));
  })];
}

function comparison(view, other) {
  const both = casesOf(view).filter((name) => casesOf(other).includes(name));
  const names = (one) => one.nodes.filter((node) => !node.skipped).map((node) => node.name);
  const shared = names(view).filter((name) => names(other).includes(name)).sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  if (!shared.length) return el("p", { class: "muted" }, "The two runs have no node in common.");
  const rows = both.flatMap((name) => caseRows(view, other, name, shared));
  if (!rows.length) return el("p", { class: "muted" }, "The two runs have no case in common.");
  const headings = ["Case", "Node", ["Before", 1], ["Now", 1], ["Change", 1], ["Results", 1]].map((one) => el("th", { scope: "col", class: Array.isArray(one) ? "number" : null }, Array.isArray(one) ? one[0] : one));
  return el("div", { class: "table stack" }, el("table", {}, el("thead", {}, el("tr", {}, headings)), el("tbody", {}, rows)));
}

/** Offer the other runs of the suite, and show the comparison with the one that is chosen. */
class Comparison {
  constructor(section, view) {
    this.section = section;
    this.view = view;
    this.place = el("div", {});
    this.load();
  }

  async load() {
    const { runs } = await api("GET", "runs");
    const others = runs.filter((run) => run.id !== this.view.id && !GOING.includes(run.state) && casesOf(run).some((name) => casesOf(this.view).includes(name)));
    const asked = new URLSearchParams(location.search).get("against");
    if (!others.length) return;
    const choice = el("select", { "aria-label": "The run to compare with", onchange: () => this.show(choice.value) },
      el("option", { value: "" }, "Choose a run…"),
      others.map((run) => el("option", { value: run.id, selected: run.id === asked }, `${run.id} · ${run.suite} · ${verdict(run)} · ${format.time(run.created_at)}`)));
    this.links = el("span", { class: "row" });
    this.section.append(el("div", { class: "row", style: { marginBottom: ".75rem" } }, choice, this.links), this.place);
    this.section.hidden = false;
    if (asked) { await this.show(asked); this.section.scrollIntoView(); }
  }

  async show(id) {
    this.links.replaceChildren(...(id ? reportLinks(this.view.id, id) : []));
    if (!id) { this.place.replaceChildren(); return; }
    try {
      const other = await api("GET", `runs/${encodeURIComponent(id)}`);
      const note = (this.view.outcomes || []).reduce((sum, row) => sum + row.results, 0) > this.view.results.length
        ? "Medians of the newest results; the report has all of them, with their spread and significance." : "Medians; the report says how much they spread, and whether a change is more than chance.";
      this.place.replaceChildren(el("p", { class: "small muted" }, note), comparison(this.view, other));
    } catch (error) {
      this.place.replaceChildren(el("p", { class: "note bad" }, error.message));
    }
  }
}
