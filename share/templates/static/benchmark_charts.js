// Lines over time, drawn as SVG: each node a line, the farm a strong one. No library: what is needed fits here.
"use strict";

/** Told apart by people with any kind of colour vision (Okabe and Ito), and by their dashes in print. */
const LINE_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9"];
const LINE_DASHES = ["", "6 3", "2 2", "8 3 2 3", "4 4", "1 3"];
const CHART = { left: 44, right: 8, top: 8, bottom: 22, height: 170 };

function svg(tag, attrs, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** Round numbers from 0 to at least `most`: about four of them. */
function ticks(most) {
  const raw = (most || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw) * power;
  const count = Math.max(1, Math.ceil((most || 1) / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, index) => +(index * step).toPrecision(6));
}

/** Times with round minutes, hours or days between them: at most about so many. */
function timeTicks(from, to, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find((one) => (to - from) / one <= most) || 604800;
  const offset = new Date(from * 1000).getTimezoneOffset() * 60;
  const first = Math.ceil((from - offset) / step) * step + offset;
  const marks = [];
  for (let at = first; at <= to; at += step) marks.push(at);
  const day = to - from > 86400;
  const options = day ? { month: "short", day: "numeric", hour: "2-digit" } : { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
  return marks.map((at) => [at, new Date(at * 1000).toLocaleString(undefined, options)]);
}

/** Means of points that fall together, so that no line has more than about `most` of them. A gap stays one. */
function thinned(points, most = 300) {
  if (points.length <= most) return points;
  const size = Math.ceil(points.length / most);
  const found = [];
  for (let index = 0; index < points.length; index += size) {
    const group = points.slice(index, index + size).filter(([, value]) => value !== null && value !== undefined);
    const mean = (column) => group.reduce((sum, point) => sum + point[column], 0) / group.length;
    found.push(group.length ? [mean(0), mean(1)] : [points[index][0], null]);
  }
  return found;
}

class Chart {
  /** `show` makes text of a value; `most` is the top of the axis, if it is known. */
  constructor(title, show, most = null) {
    this.show = show;
    this.most = most;
    this.plot = el("div", { class: "plot" });
    this.now = el("span", { class: "small muted" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.box = el("figure", { class: "chart card" }, el("figcaption", { class: "row between" }, el("b", {}, title), this.now), this.plot, this.tip);
    this.title = title;
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => { this.tip.hidden = true; this.cursor?.setAttribute("visibility", "hidden"); });
    new ResizeObserver(() => { if (this.drawn && Math.abs(this.plot.clientWidth - this.width) > 1) this.draw(...this.drawn); }).observe(this.plot);
  }

  /** Draw lines [{name, points, strong}] from one time to another; `gap` seconds without a point end a line. */
  draw(lines, from, to, gap, marks = []) {
    this.drawn = [lines, from, to, gap, marks];
    this.width = this.plot.clientWidth;
    if (!this.width) return;
    const known = lines.map((line) => ({ ...line, points: thinned(line.points) }));
    const values = known.flatMap((line) => line.points.map(([, value]) => value)).filter((value) => value !== null && value !== undefined);
    const scale = ticks(this.most ?? Math.max(0, ...values));
    const top = scale.at(-1);
    const { left, right, height } = CHART;
    this.x = (at) => left + ((at - from) / Math.max(1e-9, to - from)) * (this.width - left - right);
    this.y = (value) => CHART.top + (1 - Math.min(value, top) / top) * (height - CHART.top - CHART.bottom);
    this.lines = known;
    const floor = this.y(0);
    const grid = scale.map((value) => [
      svg("line", { class: "grid", x1: left, x2: this.width - right, y1: this.y(value), y2: this.y(value) }),
      svg("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, this.show(value)),
    ]);
    const times = timeTicks(from, to, Math.max(2, Math.floor(this.width / 85))).map(([at, text]) => svg("text", { x: this.x(at), y: height - 5, "text-anchor": this.anchor(at) }, text));
    const shades = marks.filter((mark) => mark.until).map((mark) => svg("rect", {
      class: "gap", x: this.x(Math.max(from, mark.at)), width: Math.max(1, this.x(mark.until) - this.x(Math.max(from, mark.at))), y: CHART.top, height: floor - CHART.top,
    }, svg("title", {}, mark.text)));
    const moments = marks.filter((mark) => !mark.until && mark.at >= from).map((mark) => svg("line", {
      class: `mark ${mark.kind}`, x1: this.x(mark.at), x2: this.x(mark.at), y1: CHART.top, y2: floor,
    }, svg("title", {}, mark.text)));
    const many = known.filter((line) => !line.strong).length > LINE_COLORS.length;
    const breaks = marks.filter((mark) => mark.until);
    const apart = (before, at) => at - before > gap || breaks.some((mark) => mark.at >= before && mark.until <= at + 1);
    const paths = known.map((line, index) => this.path(line, index, apart, many));
    this.cursor = svg("line", { class: "cursor", y1: CHART.top, y2: floor, visibility: "hidden" });
    this.plot.replaceChildren(svg("svg", { viewBox: `0 0 ${this.width} ${height}`, width: this.width, height, role: "img", "aria-label": this.summary(known) },
      shades.flat(), grid.flat(), times, moments, paths.flat(), this.cursor));
    this.now.textContent = values.length ? "" : "nothing measured yet";
    const farm = known.find((line) => line.strong);
    const last = farm && farm.points.findLast(([, value]) => value !== null && value !== undefined);
    if (last) this.now.textContent = `${farm.name} ${this.show(last[1])}`;
  }

  anchor(at) {
    const x = this.x(at);
    if (x < CHART.left + 24) return "start";
    return x > this.width - CHART.right - 24 ? "end" : "middle";
  }

  path(line, index, apart, many) {
    const runs = [];
    let before = null;
    for (const [at, value] of line.points) {
      if (value === null || value === undefined) { before = null; continue; }
      if (before === null || apart(before, at)) runs.push([]);
      runs.at(-1).push(`${this.x(at).toFixed(1)},${this.y(value).toFixed(1)}`);
      before = at;
    }
    const plain = many && !line.strong;
    const style = line.strong ? { class: "line strong" } : {
      class: `line${plain ? " plain" : ""}`, stroke: plain ? null : LINE_COLORS[index % LINE_COLORS.length], "stroke-dasharray": plain ? null : LINE_DASHES[index % LINE_DASHES.length] || null,
    };
    return runs.map((run) => (run.length > 1 ? svg("polyline", { ...style, points: run.join(" ") })
      : svg("circle", { class: style.class.replace("line", "dot"), fill: style.stroke, cx: run[0].split(",")[0], cy: run[0].split(",")[1], r: 2.2 })));
  }

  /** What a chart shows, for those who do not see it. */
  summary(lines) {
    const newest = lines.map((line) => [line.name, line.points.findLast(([, value]) => value !== null && value !== undefined)])
      .filter(([, point]) => point).map(([name, point]) => `${name} ${this.show(point[1])}`);
    return `${this.title}: ${newest.join(", ") || "nothing measured yet"}`;
  }

  /** Show the values at the pointer. */
  point(event) {
    if (!this.lines || !this.lines.length) return;
    const box = this.plot.getBoundingClientRect();
    const x = event.clientX - box.left;
    const nearest = (points) => points.reduce((best, point) => (!best || Math.abs(this.x(point[0]) - x) < Math.abs(this.x(best[0]) - x) ? point : best), null);
    const found = this.lines.map((line) => [line, nearest(line.points.filter(([, value]) => value !== null && value !== undefined))]).filter(([, point]) => point);
    if (!found.length) return;
    const at = found.find(([line]) => line.strong)?.[1][0] ?? found[0][1][0];
    const rows = found.filter(([, point]) => Math.abs(this.x(point[0]) - this.x(at)) < 12).sort((a, b) => (b[0].strong || 0) - (a[0].strong || 0) || b[1][1] - a[1][1]);
    this.cursor.setAttribute("x1", this.x(at));
    this.cursor.setAttribute("x2", this.x(at));
    this.cursor.setAttribute("visibility", "visible");
    const shown = rows.slice(0, 8).map(([line, point]) => el("div", { class: "row between" }, el("span", {}, line.name), el("b", {}, this.show(point[1]))));
    this.tip.replaceChildren(el("div", { class: "muted" }, new Date(at * 1000).toLocaleTimeString()), ...shown, ...(rows.length > 8 ? [el("div", { class: "muted" }, `and ${rows.length - 8} more`)] : []));
    this.tip.hidden = false;
    const right = x > this.width / 2;
    Object.assign(this.tip.style, { left: right ? "auto" : `${Math.min(x + 24, this.width - 150)}px`, right: right ? `${this.width - x + 28}px` : "auto" });
  }
}

/** Which line is which node's; with many nodes they look the same and are named under the pointer. */
function legend(names) {
  const entry = (name, attrs) => el("span", { class: "row" }, svg("svg", { width: 26, height: 8, "aria-hidden": "true" }, svg("line", { x1: 0, x2: 26, y1: 4, y2: 4, ...attrs })), name);
  const many = names.length > LINE_COLORS.length;
  return el("div", { class: "legend row small" }, entry("farm", { class: "line strong" }),
    many ? entry(`each of ${names.length} nodes`, { class: "line plain" })
      : names.map((name, index) => entry(name, { class: "line", stroke: LINE_COLORS[index], "stroke-dasharray": LINE_DASHES[index] || null })));
}
