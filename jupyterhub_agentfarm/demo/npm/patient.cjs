// Loaded before configurable-http-proxy: node --require patient.cjs …, or NODE_OPTIONS="--require /path/to/patient.cjs".
//
// The proxy's connections to servers come from a Node http.Agent with keepAlive, which lets TCP probe an idle connection
// every second and end it after ten probes without an answer. A node that is silent for 11 seconds, for a network that
// is being mended or a switch that restarts, would cost every WebSocket to it, and there is no option for it. Here an
// idle connection is probed only after two minutes; a server that is gone loses its route at once, by the farm.
"use strict";

const { Socket } = require("node:net");

const IDLE_MILLISECONDS = 120_000;
const { setKeepAlive } = Socket.prototype;

Socket.prototype.setKeepAlive = function (enable, initialDelay, ...rest) {
  return setKeepAlive.call(this, enable, Math.max(Number(initialDelay) || 0, IDLE_MILLISECONDS), ...rest);
};
