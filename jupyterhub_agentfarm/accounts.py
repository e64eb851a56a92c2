"""The Hub user of the benchmark service, before the Hub refuses it.

JupyterHub's local authenticators, PAM above all, take a user only who has an account on the Hub's machine. A Hub whose
benchmark user has none would end in the middle of its start with a traceback. So :func:`check_benchmark_user` looks
before, and says what to do.
"""

from __future__ import annotations

import pwd
from importlib.metadata import entry_points
from typing import Any

from jupyterhub.auth import LocalAuthenticator, PAMAuthenticator
from traitlets.config import Config
from traitlets.utils.importstring import import_item

from .errors import ConfigError


def check_benchmark_user(c: Config, name: str) -> None:
    """Return when the Hub of configuration `c` can have the user `name`.

    Raises
    ------
    ConfigError
        Its authenticator wants an account of that name, and there is none.
    """
    authenticator = _authenticator(c)
    if not (isinstance(authenticator, type) and issubclass(authenticator, LocalAuthenticator)):
        return
    if any(_option(c, cls.__name__, "create_system_users") for cls in authenticator.__mro__):
        return
    try:
        pwd.getpwnam(name)
    except KeyError as exc:
        raise ConfigError(
            f"{authenticator.__name__} wants an account on this machine for the Hub user {name!r}, whose servers the "
            f"benchmark service starts: `adduser --system --no-create-home {name}`, or name an account that there is "
            "with configure(c, benchmark_user=…)"
        ) from exc


def _option(c: Config, cls: str, name: str) -> Any:
    """Return what the site has set, or None."""
    return c[cls][name] if cls in c and name in c[cls] else None


def _authenticator(c: Config) -> Any:
    """Return the class of the Hub's authenticator, as JupyterHub finds it."""
    value = _option(c, "JupyterHub", "authenticator_class")
    if value is None:
        return PAMAuthenticator
    if not isinstance(value, str):
        return value
    registered = entry_points(group="jupyterhub.authenticators", name=value.lower())
    return registered[value.lower()].load() if registered.names else import_item(value)
