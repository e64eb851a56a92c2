"""Who asks, what they may, and errors as JSON.

A request is made by a :class:`Principal`: a Hub user or service, identified by token or by the cookie of the OAuth
login, or this machine's own account with the local token (:mod:`.local`). A handler names the Hub scope each method
needs; a principal without it gets 403. Every error is ``{"message", "reason", ...facts}``.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, ClassVar, TypeVar

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado import web

from ..bodies import check_content_type, decode
from ..errors import AgentFarmError, BodyTooLarge
from ..records import from_json, to_json
from . import ADMIN_ROLE
from .bounds import is_too_large

T = TypeVar("T")

PAGE_POLICY = "; ".join(
    (
        "default-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "object-src 'none'",
    )
)
_REASONS = {401: "unauthenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True)
class NoOrder:
    """A body without fields."""


@dataclass(frozen=True)
class Principal:
    """Who makes a request."""

    name: str
    #: "user", "service", or "local": a process of this machine's own account, which may do everything.
    kind: str
    scopes: frozenset[str] = field(default_factory=frozenset, repr=False)
    groups: tuple[str, ...] = ()

    def may(self, scope: str) -> bool:
        """Whether the principal holds `scope`, unfiltered."""
        return self.kind == "local" or scope in self.scopes


class ServiceHandler(HubOAuthenticated, web.RequestHandler):
    """A handler of a Hub service; `prepare` identifies the principal and checks the scope of the method.

    A request that comes with the OAuth cookie must carry the XSRF token of the page too, in the header X-XSRFToken or
    the argument `_xsrf`: the Hub's own check in `hub_auth.get_user`, which leaves out token requests and navigation.
    """

    #: Scope that each HTTP method needs; a method that is not listed needs only access to the service.
    scopes: ClassVar[dict[str, str]] = {}
    #: Setting of the application that says how much of a body is kept.
    body_bound: ClassVar[str] = "max_body_bytes"

    principal: Principal

    @property
    def hub_auth(self) -> Any:
        """The service's :class:`jupyterhub.services.auth.HubOAuth`."""
        return self.settings["hub_auth"]

    @property
    def service(self) -> Any:
        """The running :class:`~.app.ServiceApp`."""
        return self.settings["service"]

    async def prepare(self) -> None:
        """Identify who asks; refuse who may not."""
        principal = await self._identify()
        if principal is None:
            return
        self.principal = principal
        scope = self.scopes.get(self.request.method or "")
        if scope and not principal.may(scope):
            raise web.HTTPError(403, needs_scope(principal, scope))
        if is_too_large(self.request):
            raise BodyTooLarge(self.settings[self.body_bound])

    async def _identify(self) -> Principal | None:
        if self._is_local():
            return Principal("local", "local")
        model = await self.hub_auth.get_user(self, sync=False)
        if model is None:
            self.unauthenticated()
            return None
        scopes = frozenset(model["scopes"])
        access = {"access:services", f"access:services!service={self.service.name}"}
        if not access & scopes:
            raise web.HTTPError(403, f"{model['name']} has no access to the service {self.service.name}")
        kind = model.get("kind", "user")
        return Principal(model["name"], kind, scopes, tuple(model.get("groups") or ()))

    def _is_local(self) -> bool:
        """Whether the request carries this machine's local token."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        expected: str = self.settings["local_token"]
        if not expected:  # without a secret nobody has it
            return False
        return scheme.lower() in {"token", "bearer"} and hmac.compare_digest(token.encode(), expected.encode())

    def get_current_user(self) -> Any:
        """Return the principal's name: what tornado's own helpers ask for."""
        return getattr(self, "principal", None) and self.principal.name

    def unauthenticated(self) -> None:
        """Answer a request of nobody."""
        raise web.HTTPError(401, "a Hub token is needed: send `Authorization: token …`")

    def body(self, cls: type[T]) -> T:
        """Return the request's body as a record of `cls`; no body is an empty one.

        Raises
        ------
        WrongContentType
            It is not declared as JSON.
        InvalidField
            It is not JSON, or not such a record.
        """
        if not self.request.body:
            return from_json(cls, {})
        check_content_type(self.request.headers.get("Content-Type", ""))
        return from_json(cls, decode(self.request.body))

    def answer(self, value: Any, status: int = 200) -> None:
        """Finish with `value`, records included, as JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(to_json(value)))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON; only messages made for people leave the process."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, AgentFarmError):
            self.answer_error({**error.facts(), "message": error.message, "reason": error.reason}, error.http_status)
            return
        message = getattr(error, "log_message", None) or responses.get(status_code, "error")
        self.answer_error({"message": message, "reason": _REASONS.get(status_code, "error")}, status_code)

    def answer_error(self, error: dict[str, Any], status: int) -> None:
        """Finish with an error of the form ``{"message", "reason", ...facts}``."""
        self.answer(error, status)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what has a sentence of its own as one line, and faults of ours with their traceback."""
        if isinstance(value, AgentFarmError) and value.http_status != 500:
            level = self.service.log.info if value.http_status < 500 else self.service.log.warning
            level("%s: %s", self.request.path, value.message)
        else:
            super().log_exception(typ, value, tb)


class PageHandler(ServiceHandler):
    """A handler of pages: who is not logged in is sent to log in, and a browser is shown errors as a page."""

    def unauthenticated(self) -> None:
        """Send the browser through the Hub's OAuth login."""
        self.redirect(self.get_login_url())

    def render_page(self, template: str, **context: Any) -> None:
        """Finish with a page made from share/templates."""
        finish_page(self, template, principal=self.principal, xsrf_token=self.xsrf_token.decode(), **context)

    def answer_error(self, error: dict[str, Any], status: int) -> None:
        """Finish with an error: a page for a browser, JSON for everybody else."""
        if wants_page(self):
            finish_error_page(self, str(error["message"]), status, getattr(self, "principal", None))
        else:
            super().answer_error(error, status)


def wants_page(handler: web.RequestHandler) -> bool:
    """Whether the request comes from a browser that shows what is answered."""
    return "text/html" in handler.request.headers.get("Accept", "")


def finish_page(handler: web.RequestHandler, template: str, **context: Any) -> None:
    """Finish with a page made from share/templates, under a policy that lets nobody else's content in."""
    service = handler.settings["service"]
    handler.set_header("Content-Type", "text/html; charset=UTF-8")
    handler.set_header("Content-Security-Policy", PAGE_POLICY)
    handler.set_header("X-Content-Type-Options", "nosniff")
    page = handler.settings["templates"].get_template(template)
    handler.finish(page.render(prefix=service.prefix, hub_prefix=service.hub_prefix, **context))


def finish_error_page(
    handler: web.RequestHandler, message: str, status: int, principal: Principal | None = None
) -> None:
    """Finish with a page that shows `message`."""
    handler.set_status(status)
    title = responses.get(status, "Error")
    finish_page(handler, "error.html", principal=principal, xsrf_token="", title=title, message=message)


def needs_scope(principal: Principal, scope: str) -> str:
    """Return what somebody without `scope` is told."""
    return f"{principal.kind} {principal.name} needs the scope {scope} for this, which the role {ADMIN_ROLE} has"


class CallbackHandler(HubOAuthCallbackHandler):
    """Where the Hub sends the browser after the OAuth login."""

    @property
    def hub_auth(self) -> Any:
        """The service's :class:`jupyterhub.services.auth.HubOAuth`."""
        return self.settings["hub_auth"]


class NotFoundHandler(web.RequestHandler):
    """Every path that is none of ours, in the same form as other errors."""

    def prepare(self) -> None:
        """Answer 404."""
        message = f"there is nothing at {self.request.path}"
        if wants_page(self):
            finish_error_page(self, message, 404)
            return
        self.set_status(404)
        self.finish({"message": message, "reason": "not_found"})


__all__ = ["CallbackHandler", "NoOrder", "NotFoundHandler", "PageHandler", "Principal", "ServiceHandler"]
