"""``agentfarm doctor``: findings and their mends."""

from __future__ import annotations

import datetime as dt
import json
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tornado import httpserver, netutil, web

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.cli.environment_checks import check_environment
from jupyterhub_agentfarm.cli.node_checks import check_node
from jupyterhub_agentfarm.cli.site_checks import (
    check_databases,
    check_proxy,
    check_runtime_dir,
    hub_url,
    read_config,
)
from jupyterhub_agentfarm.errors import NodeUnreachable, RemoteCommandFailed
from jupyterhub_agentfarm.server.versions import environment

HERE = replace(environment(), jupyterhub="6.1.1")
DISK = {"mountpoint": "/", "size_bytes": 2**40, "avail_bytes": 2**29}


def levels(findings: list[Any]) -> dict[str, str]:
    """Return the level of each check."""
    return {finding.check.rpartition(": ")[2]: finding.level for finding in findings}


def test_a_healthy_node(node_view: Any) -> None:
    """A node without a fault has only findings that are ok, and no mends."""
    findings = check_node(node_view("a"), 300.0)
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.mend for finding in findings} == {""}


@pytest.mark.parametrize(
    ("changes", "check", "level", "said"),
    [
        ({"state": "down", "status": "down", "detail": "no route"}, "reachable", "fail", "down for 5m: no route"),
        ({"status": "draining"}, "reachable", "warn", "draining: it takes no new servers"),
        ({"clock_skew_seconds": 3.0}, "clock", "fail", "3s behind the controller's clock"),
        ({"clock_skew_seconds": -90.0}, "clock", "fail", "90s ahead of the controller's clock"),
        ({"clock_skew_seconds": None}, "clock", "warn", "the node has not reported its time yet"),
        ({"telemetry": None}, "telemetry", "warn", "none yet"),
        ({"facts.version": "0.0.1"}, "version", "warn", f"noded is 0.0.1, the command here {__version__}"),
        ({"facts.protocol": 9}, "protocol", "fail", "noded speaks version 9 of the protocol, the controller 1"),
        ({"spec.host_key": None}, "host key", "warn", "not pinned with the node; SSHPool.known_hosts decides"),
        ({"telemetry.filesystems": [DISK]}, "disk", "fail", "/ has 512M free"),
        ({"telemetry.gpu_health": "hanging", "telemetry.gpu_error": "nvml: 5 s"}, "gpus", "fail",
         "NVML is hanging: nvml: 5 s"),
    ],
)  # fmt: skip
def test_one_fault(node_view: Any, changes: dict[str, Any], check: str, level: str, said: str) -> None:
    """Each fault of a node is found, and has a mend; everything else stays ok."""
    node = node_view("a")
    for path, value in changes.items():
        part, _, key = path.rpartition(".")
        (node[part] if part else node)[key] = value
    findings = check_node(node, 300.0)
    bad = [finding for finding in findings if finding.level != "ok"]
    assert [(f.check, f.level, f.message) for f in bad] == [(f"node a: {check}", level, said)]
    assert bad[0].mend


_GONE = RemoteCommandFailed("a", "py -m x", 1, "py: No module named 'jupyterhub_agentfarm'")


@pytest.mark.parametrize(
    ("found", "level", "said", "mend"),
    [
        (HERE, "ok", f"JupyterHub {HERE.jupyterhub}, Jupyter Server {HERE.jupyter_server} on Python {HERE.python}", ""),
        (_GONE, "fail",
         "server_python (/opt/py) on node a has no jupyterhub-agentfarm[server] of this version: install it there",
         "run `/opt/py -m pip install"),
        (RemoteCommandFailed("a", "py", 127, "not found"), "fail", "server_python (/opt/py) on node a cannot be run",
         "set server_python"),
        (NodeUnreachable("a", "no route"), "warn", "could not be asked: node a: no route", "run the doctor again"),
        (replace(HERE, jupyter_server=None, nbclient=None), "fail", "/opt/py lacks jupyter_server, nbclient",
         "jupyterhub-agentfarm[server]=="),
        (replace(HERE, runs=False), "fail", "/opt/py lacks the extension jupyterhub_agentfarm.runs", "pip install"),
        (replace(HERE, jupyterhub="5.4.1"), "fail", "JupyterHub is 5.4.1 there and 6.1.1 here", "'jupyterhub==6.*'"),
        (replace(HERE, agentfarm="0.0.1"), "warn", f"jupyterhub-agentfarm is 0.0.1 there and {__version__} here",
         "pip install"),
    ],
)  # fmt: skip
def test_the_environment_of_servers(node_view: Any, found: Any, level: str, said: str, mend: str) -> None:
    """What a node's servers start from must be complete and of the Hub's major version; each finding has its mend."""
    node = node_view("a")
    node["spec"]["server_python"] = "/opt/py"
    finding = check_environment(node, found, "6.1.1")
    assert (finding.check, finding.level) == ("node a: servers", level)
    assert finding.message.startswith(said)
    assert mend in finding.mend
    assert bool(mend) == bool(finding.mend)


async def test_only_nodes_that_are_ready_are_asked(controller: Any, agentfarm: Any, node_view: Any) -> None:
    """A node that is down is not asked what its servers start from; one that is ready is."""
    controller.nodes = {"a": node_view("a"), "b": node_view("b", state="down", status="down")}
    await agentfarm("doctor")
    assert [path for _, path, _ in controller.asked if path.endswith("environment")] == ["nodes/a/environment"]


def test_foreign_processes(node_view: Any) -> None:
    """A GPU that somebody uses past the farm is told."""
    node = node_view("a")
    node["telemetry"]["gpus"][0]["foreign_pids"] = [42]
    assert levels(check_node(node, 0.0))["gpus"] == "warn"


async def test_config_files(tmp_path: Path) -> None:
    """A file that Python cannot run is a failure with Python's last line; its prints do no harm."""
    path = tmp_path / "jupyterhub_config.py"
    assert (await read_config(path))[1].level == "warn"
    path.write_text("print('hello')\nc.JupyterHub.spawner_class = 'agentfarm'\nc.JupyterHub.port = 8123\n")
    settings, finding = await read_config(path)
    assert (finding.level, settings["JupyterHub.port"]) == ("ok", 8123)
    path.write_text(
        "c.JupyterHub.services = [{'name': 'agentfarm', 'environment': {'AGENTFARM_DATA_DIR': '/srv'}}, {}]\n"
    )
    assert (await read_config(path))[0]["ControllerApp.db_url"] == "sqlite:////srv/agentfarm.sqlite"
    path.write_text("c.JupyterHub.port = nothing\n")
    _, finding = await read_config(path)
    assert finding.level == "fail"
    assert "NameError: name 'nothing' is not defined" in finding.message
    path.write_text("c.JupyterHub.port = 1\n")
    assert "does not set up the farm" in (await read_config(path))[1].message


def test_runtime_dir(tmp_path: Path, runtime_dir: Path) -> None:
    """Directory and token must be there and private."""
    assert levels(check_runtime_dir(tmp_path / "none")) == {"runtime directory": "fail"}
    assert levels(check_runtime_dir(runtime_dir)) == {"runtime directory": "ok", "local token": "fail"}
    (runtime_dir / "token").write_text("x")
    (runtime_dir / "token").chmod(0o644)
    assert levels(check_runtime_dir(runtime_dir)) == {"runtime directory": "ok", "local token": "fail"}
    (runtime_dir / "token").chmod(0o600)
    assert levels(check_runtime_dir(runtime_dir)) == {"runtime directory": "ok", "local token": "ok"}
    runtime_dir.chmod(0o755)
    assert levels(check_runtime_dir(runtime_dir)) == {"runtime directory": "fail"}


async def test_databases(tmp_path: Path) -> None:
    """A file that is none, and a server that is not there, are failures; a new file is fine; passwords stay."""
    (tmp_path / "bad.sqlite").write_text("no database, and long enough to be looked at" * 100)
    settings = {
        "A.db_url": f"sqlite:///{tmp_path}/bad.sqlite",
        "B.db_url": "sqlite:///new.sqlite",
        "C.db_url": "postgresql://ada:secret@127.0.0.1:1/farm",
    }
    findings = await check_databases(settings, tmp_path)
    assert [finding.level for finding in findings] == ["fail", "ok", "fail"]
    assert "file is not a database" in findings[0].message
    assert "secret" not in str(findings)
    assert not (tmp_path / "new.sqlite").exists()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"JupyterHub.bind_url": "http://:9000/base/"}, "http://127.0.0.1:9000/base"),
        ({"JupyterHub.ip": "0.0.0.0", "JupyterHub.port": 9001}, "http://127.0.0.1:9001"),
        ({"JupyterHub.bind_url": "http://10.1.2.3:80"}, "http://10.1.2.3:80"),
        ({"JupyterHub.bind_url": "https://:9443/b/", "JupyterHub.ssl_cert": "c.pem"}, "https://127.0.0.1:9443/b"),
        ({"JupyterHub.bind_url": "http://:9443", "JupyterHub.ssl_cert": "c.pem"}, "https://127.0.0.1:9443"),
        ({"JupyterHub.bind_url": "https://:9443"}, "http://127.0.0.1:9443"),
    ],
)
def test_hub_url(settings: dict[str, Any], url: str) -> None:
    """The proxy is looked for where the configuration puts it."""
    assert hub_url(settings) == url


def write_certificate(path: Path, name: str) -> None:
    """Write a key and a certificate that it signs itself, for a host's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    until = now + dt.timedelta(days=1)
    made = x509.CertificateBuilder(who, who, key.public_key(), x509.random_serial_number(), now, until)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


class Health(web.RequestHandler):
    """What the Hub answers about its health."""

    def get(self) -> None:
        """Answer as a Hub does."""
        self.set_header("X-JupyterHub-Version", "6.1.1")


async def test_a_proxy_with_tls(tmp_path: Path) -> None:
    """A proxy that speaks TLS is found, though its certificate is for the public name and not for this address."""
    certificate = tmp_path / "hub.pem"
    write_certificate(certificate, "hub.example.org")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    app = web.Application([("/hub/health", Health)], log_function=lambda handler: None)
    server = httpserver.HTTPServer(app, ssl_options=context)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    config = tmp_path / "jupyterhub_config.py"
    port = sockets[0].getsockname()[1]
    config.write_text(f"c.JupyterHub.bind_url = 'https://:{port}'\nc.JupyterHub.ssl_cert = {str(certificate)!r}\n")
    try:
        finding = await check_proxy((await read_config(config))[0])
        assert (finding.level, finding.message) == ("ok", f"JupyterHub 6.1.1 answers at https://127.0.0.1:{port}")
    finally:
        server.stop()
        await server.close_all_connections()


async def test_the_command(controller: Any, agentfarm: Any, node_view: Any, runtime_dir: Path, tmp_path: Path) -> None:
    """Findings go to stdout with their mends; a failure is status 1; --json has them all."""
    controller.nodes = {"a": node_view("a", clock_skew_seconds=5.0)}
    config, here = tmp_path / "none.py", environment()
    ended = await agentfarm("doctor", "-f", str(config))
    where = json.loads((runtime_dir / "agentfarm.json").read_text())["url"].removeprefix("http://").rstrip("/")
    assert ended.out == (
        f"warn  config: there is no {config}\n"
        "      -> name it with -f, or run the doctor in its directory\n"
        f"ok    runtime directory: {runtime_dir} is private\n"
        "ok    local token: there, and private\n"
        f"ok    port of agentfarm: {where} answers\n"
        "ok    controller: answers; 1 nodes\n"
        "ok    node a: reachable: ready\n"
        "ok    node a: host key: pinned\n"
        f"ok    node a: version: noded {__version__} on Python 3.11.2\n"
        "ok    node a: protocol: version 1\n"
        "fail  node a: clock: 5s behind the controller's clock\n"
        "      -> run a time service on both, such as chrony or systemd-timesyncd\n"
        "ok    node a: disk: at least 1.0G free everywhere\n"
        "ok    node a: gpus: 1 GPUs\n"
        f"ok    node a: servers: JupyterHub {here.jupyterhub}, Jupyter Server {here.jupyter_server} on Python "
        f"{here.python}\n"
        "ok    node a: orphans: none\n"
    )
    assert (ended.status, ended.err) == (1, "agentfarm: 1 of 14 checks failed\n")
    findings = json.loads((await agentfarm("doctor", "-f", str(config), "--json")).out)["findings"]
    assert len(findings) == 14
    assert [f for f in findings if f["level"] == "fail"][0]["mend"].startswith("run a time service")  # noqa: RUF015


async def test_orphans_are_listed(controller: Any, agentfarm: Any, node_view: Any, tmp_path: Path) -> None:
    """Each process and server that belongs to nobody is named with pid, lease and age, and what becomes of it."""
    controller.nodes = {"a": node_view("a")}
    begun = time.time() - 180
    controller.strays = {
        "processes": [{"pid": 42, "pid_start_ticks": 1, "lease": "ab", "started_at": begun, "seen_at": begun}],
        "servers": [{"lease": "cd", "pid": 43, "started_at": begun}],
    }
    out = (await agentfarm("doctor", "-f", str(tmp_path / "none.py"))).out
    assert "node a: orphans: process 42 names the lease ab, of which there is no record, and has run for 3m" in out
    assert "-> noded ends it after its --orphan-grace; `kill 42` on the node ends it now" in out
    assert "node a: orphans: the server of lease cd (process 43) has run for 3m and has no lease" in out


async def test_nothing_there(agentfarm: Any, tmp_path: Path) -> None:
    """On a machine without a farm the doctor says what to start."""
    ended = await agentfarm("doctor", "-f", str(tmp_path / "x.py"), "--runtime-dir", str(tmp_path / "none"))
    assert ended.status == 1
    assert "fail  runtime directory: there is no" in ended.out
    assert "fail  controller: no agentfarm service is known" in ended.out
