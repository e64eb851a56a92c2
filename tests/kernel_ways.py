"""Kernels that are started in one of two ways, and what one sees from inside them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import port_names
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from waiting import eventually

from jupyterhub_agentfarm.kernels.ports import HeldPorts
from jupyterhub_agentfarm.kernels.provisioner import NAME
from jupyterhub_agentfarm.kernels.warm import WarmKernels

COLD, WARM = "local-provisioner", NAME
READY_SECONDS = 60

#: What a kernel is asked about itself: a name, and an expression whose value is compared.
SEEN = {
    "directory": "os.getcwd()",
    "search path": "sys.path",
    "flags of Python": "[str(sys.flags), sys._xoptions, sys.warnoptions]",
    "arguments": "[sys.argv[0], *sys.argv[2:-1]]",
    "command line": "[word for word in sys.orig_argv if not word.endswith('.json')]",
    "command line in /proc": "[w for w in open('/proc/self/cmdline').read().split(chr(0)) if not w.endswith('.json')]",
    "environment": "dict(os.environ)",
    "environment in /proc": "sorted(open('/proc/self/environ').read().split(chr(0)))",
    "user's own packages": "[site.ENABLE_USER_SITE, site.USER_SITE, site.PREFIXES]",
    "session and group": "[os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()]",
    "identity": "[os.getuid(), os.getgid(), os.getgroups()]",
    "file mode mask": "[os.umask(0o22), os.umask(0o22)][0]",
    "limits": "{n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT_')}",
    "signals": "{s.name: str(signal.getsignal(s)).split(' at ')[0] for s in signal.Signals if s not in (9, 19)}",
    "blocked signals": "sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    "standard input": "sys.__stdin__.read()",
    "streams": "[os.path.basename(os.readlink(f'/proc/self/fd/{n}')).split(':')[0] for n in (0, 1, 2)]",
    "encodings": "[sys.__stdout__.encoding, sys.stdout.encoding, sys.getfilesystemencoding(), locale.getlocale()]",
    "time zone": "time.tzname",
    "priority": "[os.nice(0), sorted(os.sched_getaffinity(0))]",
    "names": "sorted(n for n in get_ipython().user_ns if n != '__warmed__')",
    "main module": "[__name__, sys.modules['__main__'].__dict__ is get_ipython().user_ns]",
    "logging": "[logging.root.level, [type(h).__name__ for h in logging.root.handlers]]",
    "warnings": "[str(f) for f in warnings.filters]",
    "hooks": "[sys.excepthook.__name__, threading.excepthook.__name__, str(sys.displayhook).split(' at ')[0]]",
    "import system": "[len(sys.meta_path), len(sys.path_hooks)]",
    "garbage collector": "[gc.isenabled(), gc.get_threshold()]",
    "limits of Python": "[sys.getrecursionlimit(), sys.getswitchinterval(), faulthandler.is_enabled()]",
    "application": "[get_ipython().kernel.parent.name, type(get_ipython().kernel.parent).__name__]",
    "parent as told": "get_ipython().kernel.parent.parent_handle",
    "multiprocessing": "[multiprocessing.get_start_method(), multiprocessing.current_process().name]",
    "event loop": "type(asyncio.get_event_loop_policy()).__name__",
    "a new process": "str(subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.flags, sys.path)']))",
    "temporary files": "tempfile.gettempdir()",
    "scratch": "[os.path.expanduser('~'), get_ipython().ipython_dir]",
    "cache of completion": "__import__('jedi').settings.cache_directory",
    "cache of its parser": "str(__import__('parso').cache._default_cache_path)",
    "completion": "get_ipython().kernel.do_complete('os.pathc', 8)['matches']",
    "completion of names": "'get_ipython' in get_ipython().kernel.do_complete('get_ipyth', 9)['matches']",
    "directory of new processes": "multiprocessing.process.ORIGINAL_DIR == os.getcwd()",
    "metrics": "[name for name in __import__('prometheus_client').REGISTRY._names_to_collectors if 'http' in name]",
    "formats": "'iri' in __import__('jsonschema').FormatChecker.checkers",
    "startup script": "globals().get('STARTED')",
    "threads for sums": "[i['num_threads'] for i in __import__('threadpoolctl').threadpool_info()]",
    "resources used": "resource.getrusage(resource.RUSAGE_SELF).ru_utime < 60",
}
#: What these expressions need.
MODULES = (
    "asyncio faulthandler gc json locale logging multiprocessing os resource signal site subprocess sys tempfile "
    "threading time warnings numpy"
)


class Kernel:
    """A kernel and a client of it."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager, self.client = manager, client

    @property
    def pid(self) -> int:
        """Its process."""
        return self.manager.provisioner.pid

    async def output(self, code: str, **options: Any) -> str:
        """Execute code and return what it prints, and the names of the errors that it raises."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            said.append(content.get("text", "") or content.get("ename", ""))

        await self.client.execute_interactive(code, output_hook=hear, timeout=READY_SECONDS, **options)
        return "".join(said)

    async def value(self, expression: str) -> Any:
        """Return the value of an expression, by way of JSON."""
        return json.loads(await self.output(f"import json; print(json.dumps({expression}))"))

    async def ended(self) -> int:
        """Wait until the process has ended and return its status."""

        async def status() -> tuple[int] | None:
            found = await self.manager.provisioner.poll()
            return None if found is None else (found,)

        return (await eventually(status, "the kernel has ended", READY_SECONDS))[0]


@contextmanager
def warm_kernels(**options: Any) -> Iterator[WarmKernels]:
    """Have zygotes of this test's own, which end with it; others' are there again afterwards."""
    KernelProvisionerFactory.clear_instance()
    before = WarmKernels._instance
    WarmKernels.clear_instance()
    chosen = {"enabled": True, "start_timeout": READY_SECONDS, "bind_timeout": READY_SECONDS} | options
    kernels = WarmKernels.instance(**chosen)
    try:
        yield kernels
    finally:
        kernels.close(20)
        WarmKernels.clear_instance()
        WarmKernels._instance = before
        KernelProvisionerFactory.clear_instance()


@asynccontextmanager
async def kernel(way: str, specs: Path | None = None, name: str = "python3", **options: Any) -> AsyncIterator[Kernel]:
    """Start a kernel in one way; in the end it is gone."""
    KernelProvisionerFactory.clear_instance()
    KernelProvisionerFactory.instance(default_provisioner_name=way)
    found = KernelSpecManager() if specs is None else KernelSpecManager(kernel_dirs=[str(specs)])
    with held_ports() if way == COLD else nullcontext({}) as ports:  # the farm's own way sees to it
        manager = AsyncKernelManager(kernel_name=name, kernel_spec_manager=found, **ports)
        await manager.start_kernel(**options)
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=READY_SECONDS)
            yield Kernel(manager, client)
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)


@contextmanager
def held_ports() -> Iterator[dict[str, Any]]:
    """Give a kernel manager ports that nothing else on this machine is given meanwhile."""
    with closing(HeldPorts("127.0.0.1", len(port_names))) as held:
        yield {"cache_ports": False, **dict(zip(port_names, held.numbers, strict=True))}


def kernelspec(folder: Path, name: str, argv: list[str], **fields: Any) -> Path:
    """Write a kernelspec; return the folder that it is found in."""
    (folder / name).mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": "python", **fields}
    (folder / name / "kernel.json").write_text(json.dumps(spec))
    return folder


def ipykernel(*options: str, python: str = "python") -> list[str]:
    """Return the command line of a Python kernel."""
    return [python, *options, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


def alive(pid: int) -> bool:
    """Return whether there is such a process, zombies not counted."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


def zygote_pid(of: int) -> int:
    """Return the parent of a kernel."""
    return int(Path(f"/proc/{of}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()[1])
