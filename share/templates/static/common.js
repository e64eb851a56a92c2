// Shared by every page: the REST API, events, elements, formats. No framework, no inline scripts.
"use strict";

const PREFIX = document.documentElement.dataset.prefix;

/** Call the service's API: api("POST", "nodes/n1/cordon", {reason}) → decoded JSON; throws Error(message) with .reason. */
async function api(method, path, body) {
  const headers = { "X-XSRFToken": document.documentElement.dataset.xsrf };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(PREFIX + "api/v1/" + path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (cause) {
    throw Object.assign(new Error("the service does not answer; try again in a moment"), { reason: "unavailable", cause });
  }
  const data = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(data.message || response.statusText), { status: response.status, ...data });
  }
  return data;
}

/** Follow server-sent events below api/v1/: follow("events", {snapshot: d => …}). Returns a function that ends it. */
function follow(path, handlers) {
  let source = null;
  let retry = null;
  let wait = 1000;
  const banner = document.getElementById("connection");
  const open = () => {
    // An EventSource cannot send headers: the token goes into the address, as on the Hub's own progress page.
    const token = encodeURIComponent(document.documentElement.dataset.xsrf);
    source = new EventSource(`${PREFIX}api/v1/${path}${path.includes("?") ? "&" : "?"}_xsrf=${token}`);
    source.onopen = () => { wait = 1000; banner.hidden = true; };
    source.onerror = () => {
      banner.textContent = "Disconnected: what you see may be old. Connecting again…";
      banner.hidden = false;
      // A refused connection (a restarting proxy answers 503) closes an EventSource for good.
      if (source.readyState === EventSource.CLOSED) {
        clearTimeout(retry);
        retry = setTimeout(open, wait);
        wait = Math.min(wait * 2, 15000);
      }
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
    }
  };
  const close = () => { clearTimeout(retry); if (source) source.close(); };
  addEventListener("pagehide", close);
  open();
  return close;
}

/** Make an element: el("td", {class: "number", onclick: f}, "text", child). Text is never parsed as HTML. */
function el(tag, attrs, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const format = {
  /** 1610612736 → "1.5 GiB"; absent → "–". */
  bytes(value) {
    if (value === null || value === undefined) return "–";
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
    return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
  },
  /** 0.314 → "31 %"; absent → "–". */
  ratio(value) { return value === null || value === undefined ? "–" : `${Math.round(value * 100)} %`; },
  /** Seconds → "12 s", "5 min", "3 h 20 min", "4 d 2 h". */
  age(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  },
  /** Seconds since the epoch → "12 s ago". */
  since(time) { return time === null || time === undefined ? "–" : `${format.age(Date.now() / 1000 - time)} ago`; },
  /** Seconds since the epoch → local date and time. */
  time(time) { return time === null || time === undefined ? "–" : new Date(time * 1000).toLocaleString(); },
};

/** A labelled bar: bar("CPU", 0.4, "40 %"). A ratio of null draws an empty track; with `scarce`, full is bad. */
function bar(label, ratio, value, title, scarce = false) {
  const level = !scarce ? "" : ratio > 0.95 ? " bad" : ratio > 0.85 ? " warn" : "";
  const width = `${Math.min(100, Math.max(0, (ratio || 0) * 100))}%`;
  return el("div", { class: "bar", title },
    el("span", { class: "label" }, label),
    el("span", { class: "track" + level, role: "presentation" }, el("i", { style: { width } })),
    el("span", { class: "value" }, value));
}

const STATUS_KIND = {
  ready: "good", running: "good", completed: "good", ok: "good", passed: "good",
  granted: "busy", starting: "busy", executing: "busy", stopping: "busy", draining: "warn", cordoned: "warn hollow",
  waiting: "warn hollow", unreachable: "warn", cancelled: "hollow", skipped: "hollow", released: "hollow",
  down: "bad", failed: "bad", exited: "bad", discarded: "bad",
};

/** A status: a dot and its word. */
function status(word, title) {
  return el("span", { class: `status ${STATUS_KIND[word] || ""}`, title }, word);
}
