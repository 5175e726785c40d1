"""The types of single fields of manifests and settings.

Every check raises ValueError with a text for the author. No text shows the value of a field that
may hold a secret.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from sandbox.documents.problems import did_you_mean, shown
from sandbox.documents.untrusted_files import check_relative
from sandbox.units import parse_duration, parse_size

FUNCTION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}", re.ASCII)
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)
# `${NAME}` (a secret), `$${` (the text `${`), or an invalid `${`.
REFERENCE: Final = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$\{", re.ASCII)
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.{_LABEL}\.)?{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_IPV6: Final = re.compile(r"\[[0-9a-f:.]{2,45}\]", re.ASCII)
# Resolvers read a host with a number at its end as an address: `127.1` is 127.0.0.1.
_LIKE_IPV4: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


def check_name(name: str) -> str:
    """Check a function's name. Only ASCII letters, so that two names never look alike."""
    if not FUNCTION_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is no function name: it begins with a letter (a-z, A-Z) and goes on "
            "with up to 62 letters, digits, - or _"
        )
    return name


def _check_env_name(name: str) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is no variable name: letters (a-z, A-Z), digits and _, no digit first"
        )
    # In the request, variables are only data. But a function may copy its `env` into a child's
    # environment, and these names would give control of the child.
    if name.upper().startswith(("LD_", "DYLD_")):
        raise ValueError(f"{shown(name)} steers the dynamic loader; choose another name")
    return name


def _check_env_value(text: str) -> str:
    if "\0" in text:
        raise ValueError("a value has no NUL character")
    for match in REFERENCE.finditer(text):
        if match[0] == "${":
            raise ValueError("`${` begins a secret such as ${NAME}; write `$${` for the text `${`")
    return text


def _check_requirement(text: str) -> str:
    if not text.strip() or not text.isprintable() or len(text) > 500:
        raise ValueError("a dependency is one line, such as `requests==2.32.3`")
    if text.lstrip().startswith("-"):
        raise ValueError(f"{shown(text)}: a dependency does not begin with a dash")
    return text.strip()


def _check_registry(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write a URL with a host, such as https://packages.example.org/simple")
    if parts.username is not None or parts.password is not None:
        raise ValueError("write no password: whatever is installed could read it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    check_destination(f"{host}:{parts.port or 443}")
    return text


def check_destination(text: str) -> str:
    """`host:port` in its canonical form: lower case, no dot at the end, addresses as in the RFCs.

    A name in another script must be in its ASCII form (`xn--…`), which looks like no other name.
    """
    host, colon, port = text.lower().rpartition(":")
    if "://" in text or "/" in text:
        raise ValueError(f"{shown(text)} is a URL: write only host:port, as in example.org:443")
    if not colon or (host.count(":") and not host.startswith("[")):
        raise ValueError(f"{shown(text)} has no port: write host:port, as in example.org:443")
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{shown(text)}: the port is a number from 1 to 65535")
    host = host.removesuffix(".")
    name = len(host) <= 253 and _HOST.fullmatch(host) and not _LIKE_IPV4.fullmatch(host)
    canonical = host if name else _canonical_address(host)
    if canonical is None:
        raise ValueError(
            f"{shown(text)}: {shown(host)} is no host: write a name such as example.org or "
            "*.example.org (xn--… for one that is not ASCII), or an address"
        )
    return f"{canonical}:{int(port)}"


def _canonical_address(host: str) -> str | None:
    """An IPv4 address, or an IPv6 address in brackets, in canonical form; None for other texts."""
    try:
        if _IPV6.fullmatch(host):
            address = ipaddress.IPv6Address(host[1:-1])
            return str(address.ipv4_mapped or f"[{address}]")
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return None


def _check_route_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{shown(path)}: a route's path begins with /")
    if len(path) > 1024 or not path.isprintable() or " " in path or "?" in path or "#" in path:
        raise ValueError(f"{shown(path)}: a route's path has no spaces, no ? and no #")
    return path


def _check_method(method: str) -> str:
    upper = method.upper()
    if upper not in _METHODS:
        hint = did_you_mean(upper, _METHODS) or f"one of {', '.join(_METHODS)}"
        raise ValueError(f"{shown(method)} is no method: {hint}")
    return upper


def _check_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    # Not pydantic's length limit: it would count an invalid method as none.
    if not methods:
        raise ValueError("must not be empty: name the methods, as in [GET, POST]")
    return tuple(dict.fromkeys(methods))


def _check_json_value(value: Any) -> Any:
    """Check a value for JSON: no NaN, no infinity. YAML's depth cap bounds the recursion."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _check_json_value(item)
    return value


# Seconds, and bytes.
Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
FunctionName = Annotated[str, AfterValidator(check_name)]
RelativePath = Annotated[str, AfterValidator(check_relative)]
EnvName = Annotated[str, AfterValidator(_check_env_name)]
EnvValue = Annotated[str, AfterValidator(_check_env_value)]
Requirement = Annotated[str, AfterValidator(_check_requirement)]
Destination = Annotated[str, AfterValidator(check_destination)]
RegistryUrl = Annotated[str, AfterValidator(_check_registry)]
RoutePath = Annotated[str, AfterValidator(_check_route_path)]
_HttpMethod = Annotated[str, AfterValidator(_check_method)]
HttpMethods = Annotated[tuple[_HttpMethod, ...], AfterValidator(_check_methods)]
JsonValue = Annotated[Any, AfterValidator(_check_json_value)]
