// A rendered notebook inside a page: as long as it is, so that the page scrolls and not a box in it.
//
// It is a document of its own in a sandbox: no script of it runs, whatever it holds, and the policy that it comes with
// says so a second time. The sandbox leaves it this origin only so that this page can measure it and find its cells.
"use strict";

const LONGEST_PIXELS = 400000;
// A notebook may name its elements as it likes, and document.body would be one of them: ask the prototype.
const own = (name) => Object.getOwnPropertyDescriptor(Document.prototype, name).get;
const rootOf = (frame) => (frame && frame.contentDocument ? own("documentElement").call(frame.contentDocument) : null);

function notebookView(place) {
  const least = 1000; // between two refreshes, in ms
  let shown = null;
  let next = null;
  let again = false;
  let timer = null;
  let last = 0;

  function fit(frame) {
    const root = rootOf(frame);
    if (!root) return;
    frame.style.height = "0"; // or it would never become shorter
    frame.style.height = `${Math.min(LONGEST_PIXELS, Math.max(60, root.scrollHeight))}px`;
  }

  function links(event) {
    const link = Element.prototype.closest.call(event.target, "a[href]");
    if (!link) return;
    event.preventDefault(); // in the frame it would lead to a page that refuses to be framed
    const raw = link.getAttribute("href");
    if (raw.startsWith("#")) { scrollTo(decodeURIComponent(raw.slice(1))); return; }
    const url = new URL(raw, "about:blank");
    if (["http:", "https:"].includes(url.protocol)) open(url.href, "_blank", "noopener,noreferrer");
  }

  /** Load what is there now into a frame behind the one that is shown, and change them when it is ready. */
  function load() {
    if (next) { again = true; return; }
    last = Date.now();
    next = el("iframe", { class: "waiting", sandbox: "allow-same-origin", src: place.dataset.src, title: "The executed notebook", referrerpolicy: "no-referrer" });
    next.onload = () => {
      const made = next;
      next = null;
      const root = rootOf(made);
      const later = root && Element.prototype.querySelector.call(root, "p.message[data-again]");
      if (later && shown) { made.remove(); refresh(); return; } // others are being made: what is shown stays
      made.className = "";
      fit(made);
      if (made.contentDocument) made.contentDocument.addEventListener("click", links);
      for (const before of [...place.children]) if (before !== made) before.remove();
      shown = made;
      if (again || later) { again = false; refresh(); }
    };
    place.append(next);
  }

  /** Load soon, but not all the time. */
  function refresh() {
    if (timer) return;
    timer = setTimeout(() => { timer = null; load(); }, Math.max(0, last + least - Date.now()));
  }

  /** Scroll the page to an element of the notebook. */
  function scrollTo(id) {
    const root = rootOf(shown);
    const target = root ? [...root.querySelectorAll("[id]")].find((one) => one.getAttribute("id") === id) : null;
    if (!target) return;
    const top = shown.getBoundingClientRect().top + target.getBoundingClientRect().top + window.scrollY - 16;
    window.scrollTo({ top, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  let width = 0;
  new ResizeObserver(() => {
    if (shown && place.clientWidth !== width) fit(shown);
    width = place.clientWidth;
  }).observe(place);

  return { refresh, cell: (index) => scrollTo(`cell-id=${index}`) };
}
