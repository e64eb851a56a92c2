"""Every metric of the farm, defined once: name, type, help, labels, unit, as data.

Who shows a metric, scrapes it or draws it takes its name from here. The rules: base units; ``_total`` only on
counters; ratios are 0-1; instants are ``_timestamp_seconds``; identity stands on ``_info``; a label never holds a
user, a lease, a process or a text that somebody wrote freely; values of closed sets exist from the start, at 0, so
that an alert can see the first failure.

Who shows what, each series in one place, so that whoever scrapes all pages counts nothing twice::

    /services/benchmark/metrics   nodes, GPUs, leases, farm-wide sums, benchmark cases and runs
    /services/agents/metrics      agents and their tasks, also per node
    /services/agentfarm/metrics   how servers ended, connections that nodes refused

The first two have the sets ``hub``, ``microserver``, ``gpuserver`` and ``all``. Two families are on several pages, with
different series: the kind of `agentfarm_tasks_finished_total` is "case" on the first and "task", an attempt of one, on
the second, and `agentfarm_api_request_duration_seconds` names the service in its handler. Names that begin with
``stream_``, ``backup_`` and ``restore_`` are kept for parts that the farm does not have yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MetricType = Literal["gauge", "counter", "histogram"]
#: "hub": about the whole farm; "node": about one node, so that its series are in the set of the node's role.
Scope = Literal["hub", "node"]

NODE_ROLES = ("microserver", "gpuserver")
#: What a page can be asked for; each series is in exactly one of the first three, and all are in the fourth.
SETS = ("hub", *NODE_ROLES, "all")
NODE_STATUSES = ("ready", "cordoned", "draining", "unreachable", "down")
#: Why a node's connection was refused, by it or by us.
NODE_REFUSALS = ("host_key", "login_refused")
LEASE_STATES = ("waiting", "granted", "running", "stopping")
TASK_OUTCOMES = ("succeeded", "failed", "timed_out", "cancelled", "lost")
CASE_OUTCOMES = (*TASK_OUTCOMES, "skipped")
#: Why servers end: the words of `models.LeaseEnd` for leases that had one.
EXIT_CAUSES = ("exited", "signal", "oom", "stopped", "drained", "node_down", "node_restarted", "unknown")
#: Why servers are started cold: the words of `models.ColdReason`.
COLD_REASONS = (
    "off", "program", "sandbox", "limiter", "variables", "user_site", "no_zygote", "renewing", "unfit", "failed",
)  # fmt: skip
#: "limited": it had been started again too often; "failed": the Hub refused the new start.
RESTART_OUTCOMES = ("started", "failed", "limited")
RUN_OUTCOMES = ("completed", "failed", "cancelled", "interrupted")
TASK_STATES = ("scheduled", "available", "executing", "retryable", "completed", "cancelled", "discarded")
#: States that a task does not leave by itself.
TASK_ENDS = ("completed", "cancelled", "discarded")
AGENT_STATES = ("active", "suspended", "retired")
#: Why attempts end: the reasons of `agents.models` that an attempt can have.
ATTEMPT_OUTCOMES = (
    "completed", "cancelled", "node_lost", "server_lost", "start_failed", "kernel_died", "output_lost", "quota",
    "internal", "cell_error", "cell_timeout", "run_timeout", "invalid_notebook", "kernel_not_found", "refused",
    "agent_suspended", "agent_retired",
)  # fmt: skip
#: What is counted of a task's attempt by its outcome; every other outcome is a failure.
TASK_OUTCOME_OF = {
    "completed": "succeeded", "cell_timeout": "timed_out", "run_timeout": "timed_out", "cancelled": "cancelled",
    "agent_suspended": "cancelled", "agent_retired": "cancelled", "node_lost": "lost", "server_lost": "lost",
}  # fmt: skip
#: Of attempts on a node: "queued" while the server or the run is being started there.
NODE_TASK_STATES = ("queued", "running")
#: Of agents with a server on a node: whether an attempt of theirs runs there.
NODE_AGENT_STATES = ("working", "idle")
#: Below 0, 0, and above: a label per number would have 201 values.
TASK_PRIORITIES = ("low", "normal", "high")
#: Why a part of a node's report was left out.
REPORT_REJECTIONS = ("cardinality",)
#: Upper bounds of the histograms of durations.
DURATION_BUCKETS_SECONDS = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
#: Upper bounds for requests to an API; a stream of events lasts as long as somebody follows.
REQUEST_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

#: A node's further GPUs and mountpoints are left out: the number of series stays bounded.
MAX_GPUS_PER_NODE = 16
MAX_MOUNTPOINTS_PER_NODE = 4


@dataclass(frozen=True)
class Metric:
    """The definition of one metric."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    #: Base unit, as in "bytes"; "" for a count or a flag.
    unit: str = ""
    scope: Scope = "node"
    #: Whether it keeps its value while the node is down: counters and what says that it is down.
    outlives_node: bool = False
    #: Upper bounds of a histogram.
    buckets: tuple[float, ...] = ()


def _node(name: str, text: str, labels: tuple[str, ...] = (), unit: str = "", *, outlives: bool = False) -> Metric:
    return Metric(f"agentfarm_{name}", "gauge", text, ("node", *labels), unit, outlives_node=outlives)


def _gpu(name: str, text: str, unit: str = "") -> Metric:
    return _node(f"gpu_{name}", text, ("gpu",), unit)


def _hub(name: str, text: str, labels: tuple[str, ...] = (), unit: str = "") -> Metric:
    return Metric(f"agentfarm_{name}", "gauge", text, labels, unit, scope="hub")


def _counter(name: str, text: str, labels: tuple[str, ...], scope: Scope) -> Metric:
    return Metric(f"agentfarm_{name}", "counter", text, labels, scope=scope, outlives_node=True)


def _histogram(
    name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = DURATION_BUCKETS_SECONDS
) -> Metric:
    full = f"agentfarm_{name}_seconds"
    return Metric(full, "histogram", text, labels, "seconds", scope="hub", outlives_node=True, buckets=buckets)


_GPU_INFO_LABELS = ("gpu", "uuid", "name", "driver_version", "simulated")
_CASE_LABELS = ("node", "suite", "case", "outcome")

_DEFINED = (
    # ---- a node ----
    _node("node_info", "What the node is; always 1.", ("role", "version", "os", "arch"), outlives=True),
    _node("node_up", "Whether the node is connected and its reports are fresh.", outlives=True),
    _node(
        "node_last_report_timestamp_seconds",
        "When the last report of the node arrived, by the controller's clock.",
        unit="seconds",
        outlives=True,
    ),
    _counter(
        "node_up_seconds_total",
        "Time for which the node was up, as far as this service saw it; its rate is the node's availability.",
        ("node",),
        "node",
    ),
    _counter(
        "node_refused_total",
        "Connections that ended because the node's host key was refused, or our login.",
        ("node", "reason"),
        "node",
    ),
    _node("node_clock_skew_seconds", "The controller's clock minus the node's.", unit="seconds"),
    _node("node_boot_time_seconds", "When the node was started; uptime is time() minus this.", unit="seconds"),
    _node("node_cpus", "Logical processors of the node."),
    _node("node_cpu_utilization_ratio", "Share of all processors that was busy since the last report.", unit="ratio"),
    _node("node_load1", "Load average over one minute."),
    _node("node_load5", "Load average over five minutes."),
    _node("node_load15", "Load average over fifteen minutes."),
    _node("node_memory_total_bytes", "Memory of the node.", unit="bytes"),
    _node("node_memory_available_bytes", "Memory that programs can still get without swapping.", unit="bytes"),
    _node("node_filesystem_size_bytes", "Size of a filesystem of the node.", ("mountpoint",), "bytes"),
    _node("node_filesystem_avail_bytes", "Room on a filesystem for ordinary accounts.", ("mountpoint",), "bytes"),
    # ---- a GPU of a node ----
    _node("gpu_info", "What the GPU is; always 1. gpu is its number on the node.", _GPU_INFO_LABELS, outlives=True),
    _gpu("utilization_ratio", "Share of the last sample period in which a kernel ran.", "ratio"),
    _gpu("memory_used_bytes", "Memory of the GPU that is in use.", "bytes"),
    _gpu("memory_total_bytes", "Memory of the GPU.", "bytes"),
    _gpu("power_watts", "Power that the GPU draws.", "watts"),
    _gpu("power_limit_watts", "Power that the GPU may draw.", "watts"),
    _gpu("temperature_celsius", "Temperature of the GPU.", "celsius"),
    _gpu("leased", "Whether a lease holds the GPU."),
    _node("gpu_collect_success", "Whether the node could read its GPUs; 0 while the driver hangs or fails."),
    # ---- the farm ----
    _hub("build_info", "The version that runs; always 1.", ("version",)),
    _hub("nodes", "Nodes of a role in a state.", ("role", "state")),
    _hub("leases", "Leases in a state.", ("state",)),
    _counter("reports_rejected_total", "Reports of nodes of which a part was left out.", ("reason",), "hub"),
    _histogram("api_request_duration", "How long requests took.", ("handler", "code"), REQUEST_BUCKETS_SECONDS),
    _hub("farm_cpu_utilization_ratio", "Share of the processors of all live nodes that was busy.", unit="ratio"),
    _hub("farm_memory_used_bytes", "Memory in use, over all live nodes.", unit="bytes"),
    _hub("farm_memory_total_bytes", "Memory of all live nodes.", unit="bytes"),
    _hub("farm_gpu_utilization_ratio", "Mean over the GPUs of all live nodes.", unit="ratio"),
    _hub("farm_gpu_memory_used_bytes", "Memory in use, over the GPUs of all live nodes.", unit="bytes"),
    _hub("farm_gpu_memory_total_bytes", "Memory of the GPUs of all live nodes.", unit="bytes"),
    # ---- servers that start, and end ----
    _counter(
        "server_starts_total",
        "Servers that the node's noded started since it began: warm, or cold for a reason.",
        ("node", "way", "reason"),
        "node",
    ),
    _node("node_warm", "Whether the node starts servers warm, by forking a process that has imported what they need."),
    _counter("server_exits_total", "Servers of the node that ended, by cause.", ("node", "cause"), "node"),
    _counter("server_restarts_total", "Servers whose node failed, by what their restart came to.", ("outcome",), "hub"),
    # ---- the benchmark ----
    _counter("tasks_finished_total", "Units of work that ended on the node.", ("node", "kind", "outcome"), "node"),
    _counter("benchmark_cases_total", "Benchmark cases that ended on the node.", _CASE_LABELS, "node"),
    _counter("benchmark_runs_total", "Benchmark runs that ended.", ("suite", "outcome"), "hub"),
    _histogram("benchmark_case_duration", "How long a case that succeeded took on a node.", ("suite", "case")),
    # ---- agents and their tasks ----
    _hub("agents", "Agents in a state.", ("state",)),
    _hub("tasks", "Tasks of agents in a state.", ("state",)),
    _hub("tasks_queued", "Tasks that could be executed now and wait, by priority.", ("priority",)),
    _hub("tasks_kept_bytes", "Notebooks and files that are kept of tasks of agents.", unit="bytes"),
    _node("node_tasks", "Attempts of tasks on the node; queued until their notebook runs.", ("state",)),
    _node("node_agents", "Agents with a server on the node, by whether a task runs there.", ("state",)),
    _counter("task_attempts_total", "Attempts of tasks that ended, by how.", ("outcome",), "hub"),
    _histogram("task_wait", "How long a task that could be executed waited for its attempt to begin."),
    _histogram("task_duration", "How long a task took from its first attempt to its end.", ("outcome",)),
)

#: All definitions by name, in the order in which they are shown.
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _DEFINED}


def escape_label_value(value: str) -> str:
    r"""Return `value` as it may stand between quotes in the text format: ``\``, ``"`` and line feeds escaped."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def format_value(value: float) -> str:
    """Return a number as the text format writes it."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def series(name: str, labels: Mapping[str, str], suffix: str = "") -> str:
    """Return what stands before the value in a line: name and labels, as :func:`sample_line` takes them."""
    metric = METRICS[name]
    wanted = (*metric.labels, "le") if suffix == "_bucket" else metric.labels
    if tuple(labels) != wanted:
        raise ValueError(f"{name} has the labels {wanted}, not {tuple(labels)}")
    pairs = ",".join(f'{key}="{escape_label_value(text)}"' for key, text in labels.items())
    return f"{name}{suffix}{{{pairs}}}" if pairs else f"{name}{suffix}"


def sample_line(name: str, labels: Mapping[str, str], value: float, suffix: str = "") -> str:
    """Return one line of the text format 0.0.4, without its line feed.

    Parameters
    ----------
    name
        A name of :data:`METRICS`.
    labels
        Exactly the labels of its definition, and ``le`` for a bucket.
    suffix
        ``_bucket``, ``_sum`` or ``_count`` of a histogram.
    """
    return f"{series(name, labels, suffix)} {format_value(value)}"


def head_lines(metric: Metric) -> str:
    r"""Return the ``# HELP`` and ``# TYPE`` lines of a metric, each with its line feed."""
    text = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {metric.name} {text}\n# TYPE {metric.name} {metric.type}\n"


class Histogram:
    """Durations of one series.

    Parameters
    ----------
    name
        A histogram of :data:`METRICS`.
    labels
        Exactly the labels of its definition.
    """

    def __init__(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self._name, self._labels = name, dict(labels or {})
        self._bounds = METRICS[name].buckets
        self._buckets = [0] * len(self._bounds)
        self._count = 0
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._count += 1
        self._sum += seconds
        for index, bound in enumerate(self._bounds):
            self._buckets[index] += seconds <= bound

    def lines(self) -> list[str]:
        """Return the series' lines, each without its line feed."""
        bounds = [*map(format_value, self._bounds), "+Inf"]
        counts = [*self._buckets, self._count]
        return [
            *(
                sample_line(self._name, {**self._labels, "le": bound}, count, "_bucket")
                for bound, count in zip(bounds, counts, strict=True)
            ),
            sample_line(self._name, self._labels, self._sum, "_sum"),
            sample_line(self._name, self._labels, self._count, "_count"),
        ]
