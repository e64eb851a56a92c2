"""A Hub with a farm: copy this file, keep what you need, run `jupyterhub -f jupyterhub_config.py`.

Everything is ordinary JupyterHub configuration but for the last line, `configure(c)`, which adds the spawner, the
services and their permissions. The demo and the tests boot this very file; what they need to change they set in the
environment, so every $AGENTFARM_… here has the value of a small site as its default.
"""

import json
import os
from pathlib import Path

from jupyterhub_agentfarm.configure import configure

c = get_config()
env = os.environ.get

# ---- Where things listen ------------------------------------------------------------------------------------------

ip = env("AGENTFARM_IP", "")  # "": all interfaces. For TLS put a reverse proxy in front, and "127.0.0.1" here.
port = env("AGENTFARM_PORT", "8000")
hub_port = env("AGENTFARM_HUB_PORT", "8081")
proxy_url = env("AGENTFARM_PROXY_URL") or f"http://127.0.0.1:{port}"

c.JupyterHub.bind_url = f"http://{ip}:{port}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{env('AGENTFARM_PROXY_API_PORT', '8001')}"
c.ConfigurableHTTPProxy.command = json.loads(env("AGENTFARM_PROXY_COMMAND", '["configurable-http-proxy"]'))

# The servers on the nodes call the Hub. With nodes other than this machine, let it listen on the farm's network and
# say under which name or address the nodes reach it:
#   c.JupyterHub.hub_ip = "0.0.0.0"
#   c.JupyterHub.hub_connect_ip = "hub.farm.example"      (or, for a whole URL: c.Spawner.hub_connect_url)
c.JupyterHub.hub_ip = env("AGENTFARM_HUB_IP", "127.0.0.1")
c.JupyterHub.hub_port = int(hub_port)

# ---- Encryption between the parts ---------------------------------------------------------------------------------

# Hub, proxy, services and the users' servers on the nodes talk TLS and show each other certificates, which the Hub
# makes; what users' browsers see of the proxy is bind_url's. Switch it when no server runs. Servers verify the Hub by
# the name or address that they call it by: configure() takes that from the lines above, and more can be named here:
#   c.JupyterHub.trusted_alt_names = ["DNS:hub.farm.example", "IP:10.0.0.1"]
c.JupyterHub.internal_ssl = env("AGENTFARM_INTERNAL_SSL") == "1"
c.JupyterHub.internal_certs_location = str(Path(env("AGENTFARM_DATA_DIR", ".")).absolute() / "internal-ssl")

# ---- Where things are kept ----------------------------------------------------------------------------------------

data_dir = Path(env("AGENTFARM_DATA_DIR", ".")).absolute()
c.JupyterHub.db_url = f"sqlite:///{data_dir / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(data_dir / "jupyterhub_cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(data_dir / "jupyterhub-proxy.pid")

# ---- Who may log in -----------------------------------------------------------------------------------------------

# Any JupyterHub authenticator does; without a line here it is PAM, with the accounts of this machine, and nobody may
# log in but the admins and whom you name:
#   c.Authenticator.allowed_users = {"ada"}
# Who is an admin here manages the farm too, by the role agentfarm-admin; admins who are made later on the Hub's admin
# page do not have it until you give it to them, or to a group:
#   c.JupyterHub.load_roles = [{"name": "agentfarm-admin", "groups": ["ops"]}]
c.Authenticator.admin_users = {"admin"}
if env("AGENTFARM_DEMO_PASSWORD"):  # the demo and the tests: one password for any name
    c.JupyterHub.authenticator_class = "dummy"
    c.DummyAuthenticator.password = env("AGENTFARM_DEMO_PASSWORD")
    c.Authenticator.allow_all = True
    if os.geteuid() == 0:  # the demo's nodes run servers as this account, and Jupyter does so as root only when told
        c.Spawner.args = ["--allow-root"]

# ---- The nodes ----------------------------------------------------------------------------------------------------

# Each needs sshd, an account for the farm, and a Python environment with jupyterhub-agentfarm[server]. `host_key` is
# its public host key (`ssh-keyscan HOST`, compared on the node). Nodes can also be added while the Hub runs:
#   agentfarm nodes add gpu1 10.0.0.11 --user farm
#
#   c.Inventory.nodes = [
#       {
#           "name": "gpu1",
#           "host": "10.0.0.11",
#           "user": "farm",
#           "host_key": "ssh-ed25519 AAAA...",
#           "python": "/opt/agentfarm/bin/python",
#           "labels": {"disk": "nvme"},
#       },
#   ]
#   c.SSHPool.client_keys = ["/etc/jupyterhub/farm_ed25519"]
#
# Or with certificates that are good for some minutes, so that no key on the Hub logs in: `agentfarm ca init PATH` makes
# the authority, and says what the nodes need to trust it (TrustedUserCAKeys):
#   c.SSHPool.user_ca = "/etc/jupyterhub/agentfarm_ca"
if env("AGENTFARM_NODES"):  # a JSON file with such a list
    c.Inventory.nodes = json.loads(Path(env("AGENTFARM_NODES")).read_text())
if env("AGENTFARM_CLIENT_KEY"):
    c.SSHPool.client_keys = [env("AGENTFARM_CLIENT_KEY")]

# ---- The servers --------------------------------------------------------------------------------------------------

#   c.AgentFarmSpawner.max_gpus = 2             most GPUs of one server
#   c.AgentFarmSpawner.queue_timeout = "8h"     longest wait in line
#   c.Spawner.mem_guarantee = "4G"              what must be free on a node before a server is put there
#   c.Spawner.notebook_dir = "~/work"           on the node
#   c.AgentFarmSpawner.max_tries = 3            nodes to try when nodes are at fault
#   c.AgentFarmSpawner.max_restarts = 3         in an hour, of servers with "restart": "on-node-failure"
c.Spawner.default_url = "/lab"

# ---- What keeps servers apart -------------------------------------------------------------------------------------

# Without these, all servers of a node run as its farm account and see each other. A node may say otherwise, by
# "isolation" in its entry above, and refuses a server that it cannot keep apart as chosen; `agentfarm doctor` says what
# each node can. An account of each user's own needs a node whose "user" is root:
#   c.Inventory.isolation = {"account": "{username}", "sandbox": "bubblewrap"}
#   c.Inventory.isolation = {"account": "hub-{username}", "create_accounts": True}
#   c.Inventory.isolation = {"sandbox": "bubblewrap"}             one account, a home for each user
#   c.Inventory.isolation = {"sandbox": "container", "image": "our/jupyter:2026", "engine": "podman"}
# The most that a server may use:
#   c.Spawner.mem_limit = "16G"
#   c.Spawner.cpu_limit = 8
#   c.AgentFarmSpawner.process_limit = 2000     processes and threads

# ---- Who may have how much, and who is next -----------------------------------------------------------------------

# `agentfarm quota` shows use beside limits. A member of several groups has the largest of their limits.
#   c.PlacementPolicy.max_servers_per_owner = 4
#   c.PlacementPolicy.max_gpus_per_owner = 2
#   c.PlacementPolicy.group_max_gpus = {"training": 8}
#   c.PlacementPolicy.max_gpu_hours_per_owner = 100
#   c.PlacementPolicy.gpu_hours_window = "7d"
#   c.PlacementPolicy.fairness = "none"         when full, by arrival alone; otherwise owners take turns

# ---- AI agents ----------------------------------------------------------------------------------------------------

# Admins register them, each with limits of its own, on the page /services/agents/ or with `agentfarm agents register`.
# Agents and people of a project share a Hub group. An agent can be put into those that are named here in full:
#   c.AgentFarmSpawner.projects = {"weather", "genomes"}
# Their servers share a directory for each project, ~/projects/NAME, on nodes that say where those are; mount there what
# the site shares them with, or let each node have its own:
#   c.Inventory.isolation = {"account": "{username}", "create_accounts": True, "projects": "/srv/projects"}

# ---- The farm -----------------------------------------------------------------------------------------------------

# Last, so that it sees what the lines above have set: it leaves those as they are, and warns where they cost servers.
# Where restarts of the Hub must not touch the controller, run that by systemd (share/systemd) and say:
#   configure(c, controller="external", controller_token=...)
configure(
    c,
    services=tuple(env("AGENTFARM_SERVICES", "agentfarm,benchmark,agents").split(",")),
    proxy_url=proxy_url,
    data_dir=data_dir,
)
