from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.functions.manifest import (
    Build,
    Hook,
    Manifest,
    Route,
    Schedule,
    Verification,
    parse_manifest,
    resolve,
    secret_names,
)
from sandbox.runtimes import Runtime
from sandbox.store.tree import LEFT_OUT
from sandbox.units import MIB

if TYPE_CHECKING:
    from pydantic import BaseModel

FILE = "functions/hello/function.yaml"

EVERYTHING = """
name: hello
runtime: python
entrypoint: ./src/main.py
path: app
interface: handler
description: Says hello
sample_input: {name: World, list: [1, 2.5, null]}
timeout: 500ms
memory: 1gb
cpu: 0.5
pids: 64
tmp: 64mb
env:
  VERSION: 1.10
  DEBUG: true
  WORD: yes
  EMPTY: ""
  KEY: ${API_KEY}
dependencies: [requests==2.32.3, numpy]
build:
  command: npm
  args: [run, build]
  watch: ["src/**/*.ts"]
  output: dist/index.js
network: [Example.org:443, "*.example.org:8443", "[::1]:80", 10.0.0.1:5432]
runtime_class: gvisor
warm: 2
reuse: 10
retries: 3
routes:
  - path: /hello/{name}
    methods: [get, POST]
hooks:
  - {type: database, source: users, action: insert, mode: sync, config: {timeout: 5s}}
  - {type: auth, source: user, action: signup}
  - type: webhook
    verification: {type: hmac-sha256, header: X-Signature, secret: "${HOOK}"}
schedules:
  - {name: nightly, type: cron, expression: "0 3 * * MON-FRI", timezone: Europe/Berlin}
  - {name: often, type: interval, expression: 1h30m, input: {a: 1}}
  - {name: once, type: one_time, expression: 2026-01-24T10:30:00Z}
"""


def good(text: str) -> Manifest:
    manifest, problems = parse_manifest(text, FILE)
    assert [str(problem) for problem in problems] == []
    assert manifest is not None
    return manifest


def errors(text: str) -> list[str]:
    manifest, problems = parse_manifest(text, FILE)
    assert manifest is None
    assert all(problem.file == FILE for problem in problems)
    assert all(problem.line for problem in problems)
    return [str(problem).removeprefix(f"{FILE}:") for problem in problems]


def test_every_field_of_the_contract_is_read() -> None:
    manifest = good(EVERYTHING)
    assert manifest.runtime is Runtime.PYTHON
    assert manifest.entrypoint == "src/main.py"
    assert manifest.timeout == 0.5
    assert manifest.memory == 1024 * MIB
    assert manifest.network == (
        "example.org:443",
        "*.example.org:8443",
        "[::1]:80",
        "10.0.0.1:5432",
    )
    assert manifest.routes[0].methods == ("GET", "POST")
    assert [hook.mode for hook in manifest.hooks] == ["sync", "async", "async"]
    assert [hook.type for hook in manifest.webhooks] == ["webhook"]
    assert [schedule.timezone for schedule in manifest.schedules] == ["Europe/Berlin", "UTC", "UTC"]
    assert set(Manifest.model_fields) == {
        field for field in Manifest.model_fields if f"\n{field}:" in EVERYTHING
    }


def test_env_has_its_values_as_they_were_written() -> None:
    """As in Alyx: 1.10 is the text 1.10, and yes is no boolean."""
    assert good(EVERYTHING).env == {
        "VERSION": "1.10",
        "DEBUG": "true",
        "WORD": "yes",
        "EMPTY": "",
        "KEY": "${API_KEY}",
    }


def test_an_empty_manifest_leaves_everything_to_detection() -> None:
    assert good("") == Manifest() == good("{}")
    assert good("").memory is None
    assert good("").reuse == 1
    assert good("").retries == 0


def test_a_field_without_a_value_is_left_out() -> None:
    text = "\n".join(f"{field}:" for field in Manifest.model_fields)
    assert good(text) == Manifest()


def test_a_manifest_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        good("name: a").name = "b"  # type: ignore[misc]


def test_a_misspelled_field_is_told_like_a_compiler_does() -> None:
    _, problems = parse_manifest("runtime: python\n\nmemroy: 128mb", FILE)
    assert str(problems[0]) == (
        "functions/hello/function.yaml:3:1: error: unknown field 'memroy' (did you mean 'memory'?)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("privileged: true", "1:1: error: unknown field 'privileged' (known: name, runtime"),
        ("environment: {}", "did you mean 'env'?"),
        (
            "build: {command: a, output: b, outptu: c}",
            "unknown field 'outptu' in build (did you mean 'outp",
        ),
        ("hooks: [{type: auth, souce: a}]", "unknown field 'souce' in hooks[0] (did you"),
        ("runtime: nodejs", "1:10: error: runtime: expected one of deno, node, bun, python, go,"),
        ("interface: http", "1:12: error: interface: expected one of stdio, handler"),
        ("description: 5", "1:14: error: description: expected a text (put it in quotes)"),
        ("description: [a]", "expected a text (write one text, not a list or a map)"),
        ("env: {A: }", "env.A: expected a text (write a value after the colon"),
        ("env: [A=b]", "env: expected a map of names to values"),
        ("env: {A: [1]}", "env.A: expected a text"),
        ("routes: {path: /a}", "routes: expected a list"),
        ("routes: [/a]", "routes[0]: expected a map"),
        ("routes: [{path: /a}]", "routes[0].methods is missing (add `methods: …`)"),
        ("routes: [{path: /a, methods: []}]", "routes[0].methods: must not be empty"),
        ("routes: [{path: a, methods: [GET]}]", "a route's path begins with /"),
        ("routes: [{path: /a, methods: [PSOT]}]", "'PSOT' is no method: did you mean 'POST'?"),
        ("build: {command: npm}", "build.output is missing"),
        ("- a", "1:1: error: expected a map of names to values"),
        ("just text", "1:1: error: expected a map of names to values"),
        ("warm: 1.5", "warm: expected a whole number"),
        ("warm: true", "warm: expected a whole number"),
        ("reuse: 0", "reuse: expected a number of at least 1"),
        ("retries: 11", "retries: expected a number of at most 10"),
        ("retries: -1", "retries: expected a number of at least 0"),
        ("sample_input: [.nan]", "sample_input: nan has no place in JSON"),
        ("dependencies: [--index-url=x]", "a dependency does not begin with a dash"),
        ('dependencies: ["a\\nb"]', "a dependency is one line"),
        ("dependencies: ../requirements.txt", "no .."),
        ("dependencies: {a: 1}", "1:15: error: dependencies: expected a text"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_mend(text: str, message: str) -> None:
    found = errors(text)
    assert len(found) == 1, found
    assert message in found[0]


@pytest.mark.parametrize("field", ["timeout", "memory", "cpu", "pids", "tmp"])
@pytest.mark.parametrize("value", ["0", "-1", ".nan", "1e99", ".inf", "true", "[]", "x"])
def test_no_limit_can_be_nonsense(field: str, value: str) -> None:
    assert f": {field}: " in errors(f"{field}: {value}")[0]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "a/b",
        "-rf",
        "a b",
        "1st",
        "_x",
        "",
        "x" * 64,
        "x" * 300,
        "hellо",  # noqa: RUF001 - the last letter is Cyrillic
        "héllo",
        "a\\0b",
        "a\\n",
        "a:b",
        "a,b",
        ".hidden",
    ],
)
def test_a_name_is_ascii_letters_digits_dash_and_underscore(name: str) -> None:
    assert "is no function name" in errors(f'name: "{name}"')[0]


@pytest.mark.parametrize("name", ["a", "A9-_", "x" * 63])
def test_good_names_are_taken(name: str) -> None:
    assert good(f"name: {name}").name == name


@pytest.mark.parametrize("field", ["entrypoint", "path", "dependencies"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "..",
        "a\\\\b",
        "a\\0b",
        "a\\nb",
        "",
        "-o/x",
        "~/x",
        "x" * 1025,
    ],
)
def test_a_path_stays_inside(field: str, path: str) -> None:
    assert f"{field}: " in errors(f'{field}: "{path}"')[0]


@pytest.mark.parametrize("path", ["a:b.js", "a,b.js", "a b.js", "dir/ü.js", "a=b.js"])
def test_a_path_may_have_any_other_character(path: str) -> None:
    assert good(f'entrypoint: "{path}"').entrypoint == path


@pytest.mark.parametrize("name", ["LD_PRELOAD", "ld_library_path", "DYLD_INSERT_LIBRARIES"])
def test_env_does_not_steer_the_dynamic_loader(name: str) -> None:
    assert "steers the dynamic loader" in errors(f"env: {{{name}: x}}")[0]


@pytest.mark.parametrize("name", ["1A", "A-B", "A B", "Ä", "", "A=B", "A\\0"])
def test_env_names_are_those_of_a_shell(name: str) -> None:
    assert "is no variable name" in errors(f'env: {{"{name}": x}}')[0]


def test_an_error_never_shows_a_value_that_may_be_secret() -> None:
    text = (
        'env: {A: "hunter2\\0", B: "${hunter2", C: ["hunter2"]}\n'
        "hooks: [{type: webhook, verification: {type: md5, header: X, secret: [hunter2]}}]"
    )
    assert len(errors(text)) == 5
    assert "hunter2" not in "".join(errors(text))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("example.org", "has no port"),
        ("https://example.org", "is a URL"),
        ("example.org:443/path", "is a URL"),
        ("example.org:0", "the port is a number from 1 to 65535"),
        ("example.org:65536", "the port is a number"),
        ("example.org:https", "the port is a number"),
        (":443", "is no host"),
        ("*:443", "is no host"),
        ("*.org:443", "is no host"),
        ("a.*.org:443", "is no host"),
        ("exa mple.org:443", "is no host"),
        ("-a.org:443", "is no host"),
        ("ex\\u0430mple.org:443", "is no host"),
        ("::1:443", "has no port"),
        ("a..b:443", "is no host"),
    ],
)
def test_a_destination_is_host_and_port(entry: str, message: str) -> None:
    assert message in errors(f'network: ["{entry}"]')[0]


@pytest.mark.parametrize("value", ["bridge", "host", "example.org:443", "true", "{}"])
def test_network_is_none_or_a_list(value: str) -> None:
    assert "network: write none, or a list of host:port" in errors(f"network: {value}")[0]


def test_no_destinations_are_no_network() -> None:
    assert good("network: []").network == good("network: none").network == "none"


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("{type: database, source: users}", "a hook of type database needs `action`"),
        ("{type: auth}", "a hook of type auth needs `source` and `action`"),
        ("{type: webhook}", "a webhook hook needs `verification`"),
        ("{type: queue}", "hooks[0].type: expected one of database, auth, webhook"),
        ("{type: auth, source: a, action: b, mode: later}", "expected one of sync, async"),
        ("{type: auth, source: a, action: b, config: {timeout: 5x}}", "is not a duration"),
        (
            "{type: webhook, verification: {type: md5, header: X, secret: s}}",
            "hooks[0].verification.type: expected one of hmac-sha256, hmac-sha1",
        ),
        (
            "{type: webhook, verification: {type: hmac-sha1, header: X}}",
            "hooks[0].verification.secret is missing",
        ),
    ],
)
def test_hooks_follow_alyx_rules(hook: str, message: str) -> None:
    assert message in errors(f"hooks:\n  - {hook}")[0]


@pytest.mark.parametrize(
    ("kind", "expression"),
    [
        ("cron", "* * * * *"),
        ("cron", "*/5 0-23/2 1,15 JAN-MAR sun"),
        ("cron", "30 0 3 * * ?"),
        ("cron", "@hourly"),
        ("interval", "30s"),
        ("interval", "1h30m"),
        ("interval", "1.5h"),
        ("one_time", "2026-01-24T10:30:00Z"),
        ("one_time", "2026-01-24T10:30:00.123+02:00"),
    ],
)
def test_expressions_that_are_read(kind: str, expression: str) -> None:
    good(f'schedules: [{{name: a, type: {kind}, expression: "{expression}"}}]')


@pytest.mark.parametrize(
    ("kind", "expression"),
    [
        ("cron", "* * * *"),
        ("cron", "* * * * * * *"),
        ("cron", "60 * * * *"),
        ("cron", "* 24 * * *"),
        ("cron", "* * 0 * *"),
        ("cron", "* * * 13 *"),
        ("cron", "* * * * 8"),
        ("cron", "*/0 * * * *"),
        ("cron", "a * * * *"),
        ("cron", "-1 * * * *"),
        ("cron", "1- * * * *"),
        ("cron", "@never"),
        ("cron", "٣ * * * *"),
        ("interval", "0s"),
        ("interval", "-5s"),
        ("interval", "1h 30m"),
        ("interval", "soon"),
        ("one_time", "2026-01-24"),
        ("one_time", "2026-13-24T10:30:00Z"),
        ("one_time", "2026-01-24T10:30:00"),
        ("one_time", "2026-01-24 10:30:00Z"),
    ],
)
def test_expressions_that_are_refused(kind: str, expression: str) -> None:
    text = f'schedules: [{{name: a, type: {kind}, expression: "{expression}"}}]'
    assert ": schedules[0]: " in errors(text)[0]


@pytest.mark.parametrize(
    "zone", ["Mars/Phobos", "../../etc/passwd", "/etc/localtime", "", "x" * 5000]
)
def test_time_zones_are_those_of_the_database(zone: str) -> None:
    text = f'schedules: [{{name: a, type: interval, expression: 5m, timezone: "{zone}"}}]'
    assert "is no time zone" in errors(text)[0]


def test_two_schedules_of_one_name_are_refused() -> None:
    one = "{name: a, type: interval, expression: 5m}"
    assert "two schedules are named 'a'" in errors(f"schedules: [{one}, {one}]")[0]


def test_every_problem_is_told_at_once_and_in_order() -> None:
    text = "nmae: a\nruntime: perl\ntimeout: 0\nenv: {A-B: x}\nmemory: 1\nmemory: 2\nroutes: [5]"
    assert [line.split(":")[0] for line in errors(text)] == ["6", "1", "2", "3", "4", "7"]


def test_problems_are_capped() -> None:
    text = "\n".join(f"unknown{i}: 1" for i in range(4000))
    found = parse_manifest(text, FILE)[1]
    assert len(found) == 51
    assert "3950 more problems" in str(found[-1])


def test_secrets_that_a_manifest_names() -> None:
    assert secret_names(good(EVERYTHING)) == {"API_KEY", "HOOK"}
    assert secret_names(good("env: {A: '$${NO} $X ${A}${B}'}")) == {"A", "B"}


def test_secrets_are_filled_in_once() -> None:
    secrets = {"A": "${B}", "B": "$${C}"}
    assert resolve("-${A}-${B}-$${A}-$A-", secrets) == "-${B}-$${C}-${A}-$A-"


def test_a_missing_secret_is_named() -> None:
    with pytest.raises(KeyError, match="NOPE"):
        resolve("${NOPE}", {"A": "1"})


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${A-B}", "${A:-x}", "${ A }"])
def test_half_a_reference_is_an_error(text: str) -> None:
    assert "begins a secret such as ${NAME}" in errors(f'env: {{A: "{text}"}}')[0]


@given(st.text(max_size=50))
def test_text_without_references_resolves_to_itself(text: str) -> None:
    assert resolve(text.replace("$", ""), {}) == text.replace("$", "")


@given(
    st.dictionaries(
        st.sampled_from(sorted(Manifest.model_fields)),
        st.sampled_from(
            ["1", "a", "[]", "{}", "[a]", "{a: b}", "~", "-1", "[{}]", "[[a]]", "true", ".nan"]
        ),
    )
)
def test_any_wrong_types_give_problems_and_never_raise(fields: dict[str, str]) -> None:
    text = "\n".join(f"{name}: {value}" for name, value in fields.items())
    manifest, problems = parse_manifest(text, FILE)
    assert (manifest is None) == bool(problems)
    assert all(problem.line is not None for problem in problems)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    parse_manifest(data, FILE)


# --- The page for authors

PAGE = (Path(__file__).parents[2] / "docs/manifest.md").read_text()


@pytest.mark.parametrize(
    "model", [Manifest, Build, Route, Hook, Verification, Schedule], ids=lambda item: item.__name__
)
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    missing = [field for field in model.model_fields if f"`{field}`" not in PAGE]
    assert missing == []


def test_the_examples_of_the_page_are_good() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    manifests = [example for example in examples if "functions:" not in example]
    assert len(manifests) == 3
    for example in manifests:
        good(example)


def test_the_problems_of_the_page_are_what_is_printed() -> None:
    text = "runtime: python\nmemroy: 1\ntimeout: 0\nenv: {A: }\nnetwork: [example.org]"
    printed = "\n".join(str(problem) for problem in parse_manifest(text, FILE)[1])
    assert printed in PAGE


def test_the_page_tells_what_bundles_leave_out() -> None:
    assert [name for name in LEFT_OUT if f"`{name}`" not in PAGE] == []
