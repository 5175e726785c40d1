"""What a function is told besides its input: caller, environment, the way back to Alyx."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from sandbox.config.destinations import Callback
from sandbox.errors import InvalidRequestError
from sandbox.functions.secrets import resolve_env, used_secrets
from sandbox.ids import new_request_id
from sandbox.models import FunctionContext, FunctionRequest
from sandbox.protocol.redaction import Redactor
from sandbox.protocol.request import parse_auth

if TYPE_CHECKING:
    from sandbox.call import Call
    from sandbox.config.settings import Settings
    from sandbox.functions.function import Function


class TokenIssuer(Protocol):
    """Makes the internal tokens that functions prove themselves with; see `sandbox.tokens`."""

    def generate(self, function: str, request_id: str, deadline: float) -> str:
        """A token for one invocation, which ends at `deadline`, in seconds since the epoch."""

    def revoke(self, token: str) -> None:
        """Make the token invalid: its invocation has ended."""


class NoTokens:
    """Functions get no internal token."""

    def generate(self, function: str, request_id: str, deadline: float) -> str:  # noqa: ARG002
        return ""

    def revoke(self, token: str) -> None:
        pass


class Contexts:
    """Makes the requests that functions read. Safe to use from many threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        secrets: Mapping[str, str],
        tokens: TokenIssuer | None = None,
    ) -> None:
        self.tokens = tokens or NoTokens()
        self._secrets = secrets
        # As functions reach it, which may be by another name.
        self._alyx_url = Callback.parse(settings.alyx_url).url if settings.alyx_url else ""
        # By the names of the secrets.
        self._redactors: dict[tuple[str, ...], Redactor] = {}

    def request(self, function: Function, call: Call) -> FunctionRequest:
        """The request document, still without an internal token.

        Raises:
            InvalidRequestError: the input is no object, or the caller's identity is not valid.
            PolicyRefusedError: the function needs a secret that the operator does not give.
        """
        if not isinstance(call.input, Mapping):
            raise InvalidRequestError(f"the input is no object but a {type(call.input).__name__}")
        files = {"_files": list(call.files)} if call.files else {}
        return FunctionRequest(
            request_id=call.request_id or new_request_id(),
            function=function.name,
            input={**call.input, **files},
            context=FunctionContext(
                auth=None if call.auth is None else parse_auth(call.auth),
                env=resolve_env(function, self._secrets),
                alyx_url=self._alyx_url,
            ),
        )

    def redactor(self, function: Function) -> Redactor:
        """What keeps the function's secrets out of its logs; the same for the same secrets."""
        secrets = used_secrets(function, self._secrets)
        if not secrets:
            return Redactor.none
        return self._redactors.setdefault(tuple(sorted(secrets)), Redactor(secrets))
