// The calls that VS Code's JupyterHub and Jupyter extensions make, in their order, with the libraries that they make
// them with. Reads {url, user, token, server, notebook, patience} from stdin, and writes as JSON {calls, seconds, specs,
// servers, outputs, refused}. `calls` has a line for each request: "GET 200 hub/api/users/ada", "WS open user/ada/api…".
const { KernelManager, KernelSpecManager, ServerConnection, SessionManager } = require("@jupyterlab/services");
const nodeFetch = require("node-fetch");
const { WebSocket } = require("ws");
const { randomUUID } = require("node:crypto");
const { readFileSync } = require("node:fs");

const { url, user, token, server, notebook, patience } = JSON.parse(readFileSync(0, "utf8"));
console.log = console.info = console.debug = console.error; // stdout is for the report
const began = Date.now();
const report = { calls: [], seconds: {}, specs: [], outputs: {} };
const headers = { Authorization: `token ${token}` };
const sockets = [];

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const mark = (name) => (report.seconds[name] = (Date.now() - began) / 1000);
const short = (address) => String(address).replace(/^\w+:\/\/[^/]+\//, "").replace(/[?&](token|session_id)=[^&]+/g, "");

async function fetch(input, init) {
  const request = new nodeFetch.Request(input, init);
  const answer = await nodeFetch(request);
  report.calls.push(`${request.method} ${answer.status} ${short(request.url).replace(/[?&]\d+$/, "")}`);
  return answer;
}

class OurWebSocket extends WebSocket {
  constructor(address, protocols, options) {
    super(address, protocols, { ...options, headers }); // the token in the address is not enough for JupyterHub 5
    this.on("open", () => report.calls.push(`WS open ${short(address)}`));
    this.on("unexpected-response", (_, answer) => report.calls.push(`WS ${answer.statusCode} ${short(address)}`));
    sockets.push(this);
  }
}

// ---- the JupyterHub extension ----

const hub = (path, method = "GET") => fetch(`${url}/hub/api${path}`, { method, headers });

async function userModel(query = "") {
  const answer = await hub(`/users/${user}${query}`);
  if (answer.status !== 200) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
}

const stopped = server ? "?include_stopped_servers" : "";
const serverModel = async () => ((await userModel(stopped)).servers || {})[server];

async function addServer() {
  const answer = await fetch(`${url}/hub/api`, { redirect: "manual", headers: { Connection: "keep-alive" } });
  if (answer.status !== 200 || !(await answer.json()).version) throw new Error("VS Code takes this for no JupyterHub");
  await userModel(); // is the password a token?
  if (!(await userModel()).name) throw new Error("the user has no name");
  report.servers = Object.keys((await userModel("?include_stopped_servers")).servers || {});
}

async function ensureRunning() {
  if ((await serverModel())?.ready) return;
  await hub(`/users/${user}/${server ? `servers/${encodeURIComponent(server)}` : "server"}`, "POST");
  mark("post");
  // The extension's patience is ten seconds from the request's answer on, whatever that was.
  for (const since = Date.now(); !(await serverModel())?.ready; await pause(1000)) {
    if (Date.now() - since > patience * 1000) throw new Error("VS Code gave up waiting for the server");
  }
}

async function serverSettings() {
  const baseUrl = url + ((await serverModel())?.url ?? `/user/${user}/`);
  const wsUrl = baseUrl.replace("http", "ws");
  const { Headers, Request } = nodeFetch;
  const init = { cache: "no-store", credentials: "same-origin", headers };
  const kinds = { fetch, Request, Headers, WebSocket: OurWebSocket };
  return ServerConnection.makeSettings({ baseUrl, wsUrl, appUrl: "", token, appendToken: true, init, ...kinds });
}

function managers(settings) {
  const kernelspecs = new KernelSpecManager({ serverSettings: settings });
  const kernels = new KernelManager({ serverSettings: settings });
  const sessions = new SessionManager({ serverSettings: settings, kernelManager: kernels });
  const dispose = () => [sessions, kernels, kernelspecs].forEach((manager) => manager.dispose());
  return { kernelspecs, kernels, sessions, dispose };
}

async function resolve() {
  await userModel(); // is the token still good?
  await userModel();
  await ensureRunning();
  mark("ready");
  await userModel();
  const { kernelspecs, sessions, dispose } = managers(await serverSettings());
  await sessions.ready;
  await kernelspecs.ready;
  report.specs = Object.keys(kernelspecs.specs.kernelspecs);
  dispose();
  mark("resolved");
  return serverSettings();
}

// ---- the Jupyter extension ----

async function printed(kernel, code) {
  let text = "";
  const future = kernel.requestExecute({ code, store_history: true, stop_on_error: true });
  future.onIOPub = ({ header, content }) => {
    if (header.msg_type === "stream") text += content.text;
    if (header.msg_type === "error") text += content.ename;
  };
  await future.done;
  return text;
}

const idle = async (kernel) => {
  while (kernel.status !== "idle" || kernel.connectionStatus !== "connected") await pause(20);
};

async function useKernel(settings) {
  const { kernelspecs, kernels, sessions, dispose } = managers(settings);
  await Promise.all([kernels.refreshRunning(), kernelspecs.refreshSpecs()]);
  const [path, name] = [`${notebook}-jvsc-${randomUUID()}.ipynb`, `${notebook}-${randomUUID()}.ipynb`];
  const session = await sessions.startNew({ path, name, type: "notebook", kernel: { name: "python3" } });
  const { kernel } = session;
  await idle(kernel);
  mark("idle");
  report.outputs.executed = await printed(kernel, "import os; x = 6 * 7; print(x, os.environ['CUDA_VISIBLE_DEVICES'])");
  mark("first");
  const endless = printed(kernel, "import time\nwhile True: time.sleep(0.1)");
  await pause(500); // it shall be in the loop
  await kernel.interrupt();
  report.outputs.interrupted = await endless;
  const lost = new Promise((resolve) =>
    kernel.connectionStatusChanged.connect((_, status) => status === "connecting" && resolve()),
  );
  sockets.at(-1).terminate(); // no closing handshake, as when a network fails
  await lost;
  await idle(kernel);
  report.outputs.reconnected = await printed(kernel, "print(x)");
  await kernel.restart();
  await idle(kernel);
  report.outputs.restarted = await printed(kernel, "print('x' in dir())");
  await session.shutdown();
  dispose();
}

async function main() {
  await addServer();
  await useKernel(await resolve());
  await hub(`/users/${user}/${server ? `servers/${encodeURIComponent(server)}` : "server"}`, "DELETE");
  mark("stopped");
}

const end = (error) => {
  if (error) report.refused = String(error.stack ?? error);
  process.stdout.write(JSON.stringify(report), () => process.exit(report.refused ? 1 : 0));
};

process.on("SIGTERM", () => end("no end in time"));
main().then(end, end);
