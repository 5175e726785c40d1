"""Which function a request leads to: paths, parameters, methods, and what is the server's own."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.functions.manifest import Route
from sandbox.server.events.routes import Match, RouteTable
from sandbox.server.http.operations import RESERVED


def route(path: str, *methods: str) -> Route:
    return Route.model_validate({"path": path, "methods": methods or ("GET",)})


def table(**functions: tuple[Route, ...]) -> RouteTable:
    return RouteTable(functions, reserved=RESERVED)


def function(found: Match | frozenset[str]) -> str:
    assert isinstance(found, Match)
    return found.function


def test_a_parameter_is_one_segment_decoded() -> None:
    routes = table(show=(route("/users/{id}/files/{name}"),))
    found = routes.match("GET", "/users/a%20b/files/x%2Fy%C3%A9")
    assert found == Match(function="show", params={"id": "a b", "name": "x/yé"})
    assert routes.match("GET", "/users/a/b/files/x") == frozenset()
    assert routes.match("GET", "/users//files/x") == frozenset()


def test_an_exact_path_comes_before_a_parameter() -> None:
    routes = table(any=(route("/users/{id}", "GET", "POST"),), me=(route("/users/me"),))
    assert function(routes.match("GET", "/users/me")) == "me"
    assert function(routes.match("GET", "/users/you")) == "any"
    # Where the exact one does not have the method, the other does.
    assert function(routes.match("POST", "/users/me")) == "any"


def test_a_way_that_leads_nowhere_is_left_again() -> None:
    routes = table(a=(route("/x/y/z"),), b=(route("/x/{p}/w"),))
    assert routes.match("GET", "/x/y/w") == Match(function="b", params={"p": "y"})


def test_another_method_is_told_which_there_are() -> None:
    routes = table(a=(route("/x", "GET", "POST"),), b=(route("/{any}", "DELETE"),))
    assert routes.match("PUT", "/x") == {"GET", "HEAD", "POST", "DELETE"}
    assert routes.match("PUT", "/y") == {"DELETE"}
    assert routes.match("PUT", "/y/z") == frozenset()


def test_head_is_answered_as_get_unless_a_route_says_so() -> None:
    routes = table(a=(route("/x"),), b=(route("/y", "POST"),))
    assert function(routes.match("HEAD", "/x")) == "a"
    assert routes.match("HEAD", "/y") == {"POST"}


def test_a_slash_at_the_end_is_another_path() -> None:
    routes = table(a=(route("/x"),), b=(route("/x/"),), root=(route("/"),))
    assert function(routes.match("GET", "/x")) == "a"
    assert function(routes.match("GET", "/x/")) == "b"
    assert function(routes.match("GET", "/")) == "root"
    assert routes.match("GET", "//x") == frozenset()


@pytest.mark.parametrize("path", ["/%ff", "/%c3%28", "/%ED%A0%80"])
def test_what_is_no_text_has_no_route(path: str) -> None:
    assert table(a=(route("/{x}"),)).match("GET", path) == frozenset()


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_the_server_s_own_paths_are_never_shadowed(name: str) -> None:
    routes = table(
        a=(route(f"/{name}"), route(f"/{name}/x"), route("/{x}"), route("/{x}/{y}"), route("/ok"))
    )
    assert len(routes.conflicts["a"]) == 2
    assert "the server's own" in routes.conflicts["a"][0]
    # Not by parameters either, however the path is written.
    for path in (f"/{name}", f"/{name}/x", f"/%{ord(name[0]):02x}{name[1:]}/x"):
        assert routes.match("GET", path) == frozenset()
    assert function(routes.match("GET", "/ok")) == "a"


def test_of_two_functions_the_first_by_name_has_the_route() -> None:
    for order in (("b", "a"), ("a", "b")):
        its = {"a": (route("/users/{id}"),), "b": (route("/users/{name}", "GET", "POST"),)}
        routes = RouteTable({name: its[name] for name in order})
        assert routes.match("GET", "/users/1") == Match(function="a", params={"id": "1"})
        assert routes.match("POST", "/users/1") == Match(function="b", params={"name": "1"})
        assert routes.conflicts == {"b": ["the route GET /users/{name} leads to the function a"]}


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/{a}/{a}", "two parameters"), ("/x{a}", "whole segment"), ("/{}", "whole segment")],
)
def test_paths_that_cannot_be_used_are_told(path: str, reason: str) -> None:
    routes = table(a=(route(path), route("/ok")))
    (told,) = routes.conflicts["a"]
    assert reason in told
    assert function(routes.match("GET", "/ok")) == "a"


SEGMENTS = st.sampled_from(["a", "b", "c", "{p}", "{q}", ""])
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
METHODS = st.sampled_from(["GET", "POST", "HEAD"])


def plainly(routes: dict[str, tuple[Route, ...]], method: str, path: str) -> str | None:
    """The function that a look at each route finds: the exact segments count from the left."""
    asked = path.removeprefix("/").split("/")
    fitting = []
    for name in sorted(routes):
        for item in routes[name]:
            its = item.path.removeprefix("/").split("/")
            parameters = [part for part in its if part.startswith("{")]
            if len(set(parameters)) < len(parameters) or len(its) != len(asked):
                continue
            if all((a and b.startswith("{")) or a == b for a, b in zip(asked, its, strict=True)):
                exact = [part.startswith("{") for part in its]
                ways = dict.fromkeys((method, "GET" if method == "HEAD" else method))
                fitting += [(exact, one != method, name) for one in ways if one in item.methods]
    return min(fitting)[2] if fitting else None


@given(
    st.dictionaries(
        st.sampled_from(["f", "g", "h"]),
        st.lists(st.builds(route, PATHS, METHODS), max_size=4).map(tuple),
    ),
    METHODS,
    st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=1, max_size=4),
)
def test_the_table_finds_what_a_look_at_each_route_finds(
    routes: dict[str, tuple[Route, ...]], method: str, parts: list[str]
) -> None:
    path = "/" + "/".join(parts)
    found = RouteTable(routes, reserved=RESERVED).match(method, path)
    assert (found.function if isinstance(found, Match) else None) == plainly(routes, method, path)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_any_text_comes_through_as_it_was(text: str) -> None:
    try:
        path = "/x/" + quote(text, safe="")
    except UnicodeEncodeError:  # half a character
        return
    assert table(a=(route("/x/{it}"),)).match("GET", path) == Match(
        function="a", params={"it": text}
    )


@given(st.text())
def test_no_path_is_too_strange(path: str) -> None:
    table(a=(route("/{x}"), route("/{x}/{y}"))).match("GET", path)
