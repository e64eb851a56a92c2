// What is known of one run, from its view and the events since: how far it is, and how long it will still take.
"use strict";

class RunModel {
  constructor(view) {
    this.samples = new Map(); // by "scope\nname": [{at, values}]
    this.take(view);
  }

  /** Take the whole view; samples stay. */
  take(view) {
    this.view = view;
    this.nodes = view.nodes.filter((node) => !node.skipped);
    this.cases = (view.definition.cases || []).map((one) => one.name);
    const phases = view.definition.phases || [];
    this.phases = phases.length ? phases : [{ name: "", nodes: this.nodes.map((node) => node.name), repetitions: 1 }];
    this.rows = new Map(); // by phase, node, case, warm-up, outcome
    for (const row of view.outcomes || []) this.count(row, row.results, row.seconds);
    this.results = [];
    this.progress = new Map();
    for (const result of view.results) this.keep(result, !view.outcomes);
    this.events = [...(view.events || [])];
    for (const item of view.progress || []) this.takeProgress(item);
  }

  get going() { return GOING.includes(this.view.state); }

  count(row, results, time) {
    const key = [row.phase || "", row.node, row.case, row.warm_up ? 1 : 0, row.outcome].join("\n");
    const known = this.rows.get(key) || { ...row, phase: row.phase || "", results: 0, seconds: 0 };
    known.results += results;
    known.seconds += time || 0;
    this.rows.set(key, known);
  }

  keep(result, counted = true) {
    this.results.push(result);
    if (this.results.length > 2000) this.results.splice(0, 500);
    if (counted) this.count(result, 1, result.duration_seconds);
    this.progress.delete(`${result.node}\n${result.lane || 0}`);
  }

  takeProgress(item) {
    if (item.case === null) { // of a node's server: its lanes do nothing
      for (const key of this.progress.keys()) if (key.startsWith(`${item.node}\n`)) this.progress.delete(key);
    }
    this.progress.set(`${item.node}\n${item.lane || 0}`, item);
  }

  takeSamples(samples) {
    for (const sample of samples) {
      const key = `${sample.scope}\n${sample.name}`;
      const known = this.samples.get(key) || [];
      if (!known.length || known.at(-1).at < sample.at) known.push(sample);
      this.samples.set(key, known);
    }
  }

  newest(node) { return (this.samples.get(`node\n${node}`) || []).at(-1); }

  lanes(node) { return [...this.progress.values()].filter((item) => item.node === node).sort((a, b) => (a.lane || 0) - (b.lane || 0)); }

  // ---- how much there is ----

  sum(wanted = {}) {
    let results = 0;
    for (const row of this.rows.values()) {
      if (Object.entries(wanted).every(([key, value]) => row[key] === value)) results += row.results;
    }
    return results;
  }

  rounds(phase) { return (phase.repetitions || 0) + (phase.warm_up || 0); }

  units(phase, node) {
    if (phase.duration_seconds || !phase.repetitions) return null;
    return (phase.concurrency || 1) * Math.max(1, node.gpus || 0) * this.rounds(phase) * this.cases.length;
  }

  /** Results that there will be; null where a phase goes on for a time. */
  total(node) {
    let total = 0;
    for (const phase of this.phases) {
      for (const each of node ? [node] : this.nodes) {
        if (!phase.nodes.includes(each.name)) continue;
        const units = this.units(phase, each);
        if (units === null) return null;
        total += units;
      }
    }
    return total;
  }

  // ---- how long it takes ----

  at(kind, phase) { return this.events.findLast((event) => event.kind === kind && event.detail === phase); }

  share(phase) {
    const shares = this.nodes.filter((node) => phase.nodes.includes(node.name))
      .map((node) => Math.min(1, this.sum({ phase: phase.name, node: node.name }) / (this.units(phase, node) || 1)));
    return shares.length ? Math.min(...shares) : 1;
  }

  meanSeconds(name) {
    let [seconds, results] = [0, 0];
    for (const row of this.rows.values()) {
      if (row.case === name && row.outcome === "succeeded") { seconds += row.seconds; results += row.results; }
    }
    return results ? seconds / results : null;
  }

  remaining(now) {
    let sum = 0;
    for (const phase of this.phases) {
      if (this.at("phase_ended", phase.name)) continue;
      if (phase.duration_seconds) {
        const began = this.at("phase_started", phase.name);
        sum += began ? Math.max(0, began.at + phase.duration_seconds - now) : phase.duration_seconds;
      } else {
        const each = this.cases.map((name) => this.meanSeconds(name));
        if (each.includes(null)) return null;
        sum += each.reduce((all, one) => all + one, 0) * this.rounds(phase) * (1 - this.share(phase));
      }
    }
    return sum;
  }

  /** Which part of the run is over, by time; null: that cannot be said. */
  ratio(now) {
    const remaining = this.remaining(now);
    if (this.view.started_at === null || remaining === null) return null;
    const passed = Math.max(0, now - this.view.started_at);
    return passed + remaining ? passed / (passed + remaining) : 1;
  }

  /** The phase that goes on: [its number from 1, the phase]; null before the first. */
  phase() {
    const index = this.phases.findIndex((phase) => !this.at("phase_ended", phase.name));
    const at = index < 0 ? this.phases.length - 1 : index;
    return this.phases[at] ? [at + 1, this.phases[at]] : null;
  }

  // ---- what was measured ----

  /** What a case came to on a node, or on all: counts, the median seconds and primary figure of the newest results. */
  caseSummary(name, node) {
    const rows = [...this.rows.values()].filter((row) => row.case === name && (!node || row.node === node));
    const bad = rows.filter((row) => !["succeeded", "skipped"].includes(row.outcome));
    const results = this.results.filter((one) => one.case === name && (!node || one.node === node));
    const good = results.filter((one) => one.outcome === "succeeded" && !one.warm_up);
    const primary = good.length ? good.at(-1).primary : null;
    const values = primary ? good.map((one) => one.figures[primary]).filter((value) => typeof value === "number") : [];
    return {
      done: rows.reduce((all, row) => all + row.results, 0),
      bad: bad.reduce((all, row) => all + row.results, 0),
      last: results.at(-1) || null,
      worst: results.findLast((one) => !["succeeded", "skipped"].includes(one.outcome)) || null,
      seconds: median(good.map((one) => one.duration_seconds).filter((value) => value !== null)),
      primary, value: median(values), device: good.length ? good.at(-1).device : "",
    };
  }

  // ---- over time ----

  /** A quantity of a node (or of the farm) over time: [[at, value], …]. */
  over(scope, name, quantity) {
    return (this.samples.get(`${scope}\n${name}`) || []).map((sample) => [sample.at, quantity(sample.values)]);
  }

  /** Succeeded cases per minute over time, each over the last `span` seconds. */
  rate(scope, name, span) {
    const samples = (this.samples.get(`${scope}\n${name}`) || []).filter((sample) => sample.values.cases_succeeded !== undefined);
    let first = 0;
    return samples.map((sample, index) => {
      while (first < index && samples[first].at < sample.at - span) first += 1;
      const passed = sample.at - samples[first].at;
      return [sample.at, passed ? 60 * (sample.values.cases_succeeded - samples[first].values.cases_succeeded) / passed : null];
    });
  }
}
