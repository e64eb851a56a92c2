// Shows the notices of the farm (GET agentfarm/api/v1/notices) as notifications in JupyterLab. Written by hand as the
// container that JupyterLab loads extensions from: `init` takes shared modules, of which none are needed, and `get`
// returns the plugin.
"use strict";

(() => {
  const POLL_MS = 3000;
  const SLOW_MS = 30000;
  const MAX_CHARACTERS = 140; // JupyterLab cuts longer messages in the middle of a word

  /** "in 9 minutes", rounded so that it never promises more time than there is. */
  function remaining(seconds) {
    if (seconds < 5) return "now";
    if (seconds < 120) return `in ${Math.floor(seconds / 5) * 5} seconds`;
    return `in ${Math.floor(seconds / 60)} minutes`;
  }

  function sentence(notice) {
    if (notice.deadline_at === null) return notice.message.slice(0, MAX_CHARACTERS);
    const clock = new Date(notice.deadline_at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const left = remaining(notice.deadline_at - Date.now() / 1000);
    const end = `: save your work; the server stops at ${clock}, ${left}.`;
    const room = MAX_CHARACTERS - end.length;
    const what = notice.message.length > room ? notice.message.slice(0, room - 1) + "…" : notice.message;
    return what + end;
  }

  function cookie(name) {
    const found = document.cookie.split("; ").find((item) => item.startsWith(`${name}=`));
    return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
  }

  async function fetchNotices(settings) {
    const headers = { Accept: "application/json", "X-XSRFToken": cookie("_xsrf") };
    if (settings.token) headers.Authorization = `token ${settings.token}`;
    const url = `${settings.baseUrl}agentfarm/api/v1/notices`;
    const response = await fetch(url, { headers, credentials: "same-origin", cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return (await response.json()).notices;
  }

  class Follower {
    constructor(app) {
      this.app = app;
      this.shown = new Map(); // what a notice says -> id and text of its notification
    }

    async show(key, notice) {
      const message = sentence(notice);
      const known = this.shown.get(key);
      if (known && known.message !== message) {
        known.message = message;
        await this.app.commands.execute("apputils:update-notification", { id: known.id, message, type: "warning" });
      } else if (!known) {
        const options = { autoClose: false };
        const id = await this.app.commands.execute("apputils:notify", { message, type: "warning", options });
        this.shown.set(key, { id, message });
      }
    }

    async poll() {
      const notices = await fetchNotices(this.app.serviceManager.serverSettings);
      // A notice that changed is another one: whoever has hidden the first sees the second.
      const now = new Map(notices.map((notice) => [`${notice.at} ${notice.deadline_at} ${notice.message}`, notice]));
      for (const [key, { id }] of [...this.shown]) {
        if (now.has(key)) continue;
        this.shown.delete(key);
        await this.app.commands.execute("apputils:dismiss-notification", { id });
      }
      for (const [key, notice] of now) await this.show(key, notice);
    }

    /** Poll while somebody looks; a page in the background asks nothing, and at once when it is looked at again. */
    async run() {
      for (;;) {
        let pause = POLL_MS;
        if (!document.hidden) {
          try {
            await this.poll();
          } catch {
            pause = SLOW_MS; // the server is gone or old: JupyterLab itself says when a connection is lost
          }
        }
        await new Promise((resolve) => {
          const wake = () => {
            clearTimeout(timer);
            document.removeEventListener("visibilitychange", wake);
            resolve();
          };
          const timer = setTimeout(wake, pause);
          document.addEventListener("visibilitychange", wake);
        });
      }
    }
  }

  const plugin = {
    id: "jupyterhub-agentfarm:notices",
    description: "Shows what is about to happen to this server.",
    autoStart: true,
    activate: (app) => {
      app.restored.then(() => new Follower(app).run());
    },
  };

  globalThis._JUPYTERLAB = globalThis._JUPYTERLAB || {};
  globalThis._JUPYTERLAB["jupyterhub-agentfarm"] = {
    init: () => undefined,
    get: async (module) => {
      if (module !== "./extension") throw new Error(`jupyterhub-agentfarm has no module ${module}`);
      return () => ({ __esModule: true, default: plugin });
    },
  };
})();
