"""Functions directories, written for each test, and what is found in them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandbox.documents.untrusted_files import FileRefusedError, check_hard_link
from sandbox.functions.discovery import Discovery, Function, discover, function_from_path
from sandbox.runtimes import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable

STDIO = "import json, sys\nprint(json.load(sys.stdin))\n"
HANDLER = "def handler(ctx):\n    return ctx.input\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "functions"
    directory.mkdir()
    return directory


@pytest.fixture
def write(root: Path) -> Callable[..., Path]:
    """`write("name/index.py", text)` puts a file into the functions directory."""

    def write_file(path: str, text: str | bytes = "", *, mode: int = 0o644) -> Path:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        target.chmod(mode)
        return target

    return write_file


def found(root: Path) -> dict[str, Function]:
    """The functions of a directory without any problem."""
    discovery = discover(root)
    assert [str(problem) for problem in discovery.problems] == []
    return {function.name: function for function in discovery.functions}


def texts(discovery: Discovery) -> list[str]:
    return [str(problem) for problem in discovery.problems]


def only_problem(root: Path, *, beside: str = "good") -> str:
    """The one problem of a directory, in which the function `good` is still found."""
    discovery = discover(root)
    assert [function.name for function in discovery.functions] == [beside]
    assert len(discovery.problems) == 1, texts(discovery)
    return str(discovery.problems[0])


# --- Detection without a manifest


@pytest.mark.parametrize(
    ("files", "runtime", "entrypoint"),
    [
        (["mod.ts"], "node", "mod.ts"),
        (["mod.ts", "deno.json"], "deno", "mod.ts"),
        (["main.ts", "deno.jsonc"], "deno", "main.ts"),
        (["index.js"], "node", "index.js"),
        (["index.mjs"], "node", "index.mjs"),
        (["index.cjs"], "node", "index.cjs"),
        (["index.ts"], "node", "index.ts"),
        (["index.mts"], "node", "index.mts"),
        (["index.cts"], "node", "index.cts"),
        (["index.ts", "deno.json"], "deno", "index.ts"),
        (["index.ts", "bun.lock"], "bun", "index.ts"),
        (["index.js", "bunfig.toml"], "bun", "index.js"),
        (["index.js", "bunfig.toml", "deno.json"], "bun", "index.js"),
        (["index.tsx"], "bun", "index.tsx"),
        (["index.py"], "python", "index.py"),
        (["main.py"], "python", "main.py"),
        (["main.go", "go.mod"], "go", "main.go"),
        (["index.go"], "go", "index.go"),
        (["index.py", "bun.lock"], "python", "index.py"),
        # Where there are several, the order of the contract decides.
        (["index.py", "index.js"], "node", "index.js"),
        (["main.ts", "index.js"], "node", "main.ts"),
        (["mod.ts", "main.ts"], "node", "mod.ts"),
        (["index.ts", "index.cjs"], "node", "index.cjs"),
        (["main.py", "index.py"], "python", "index.py"),
        (["index.go", "main.py"], "python", "main.py"),
        (["index.go", "main.go"], "go", "main.go"),
    ],
)
def test_a_directory_is_recognised_by_its_files(
    root: Path, write: Callable[..., Path], files: list[str], runtime: str, entrypoint: str
) -> None:
    for name in files:
        write(f"hello/{name}")
    function = found(root)["hello"]
    assert (function.runtime, function.entrypoint) == (Runtime(runtime), entrypoint)
    assert function.source == (root / "hello").resolve()
    assert function.source_entrypoint == entrypoint
    assert (function.single_file, function.manifest_file) == (False, None)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("a.py", "python"),
        ("a.js", "node"),
        ("a.mts", "node"),
        ("a.tsx", "bun"),
        ("a.jsx", "bun"),
        ("a.go", "go"),
    ],
)
def test_a_single_file_is_recognised_by_its_ending(
    root: Path, write: Callable[..., Path], name: str, runtime: str
) -> None:
    file = write(name)
    function = found(root)["a"]
    assert function.runtime is Runtime(runtime)
    assert function.single_file
    assert function.source == file.resolve()
    assert function.entrypoint == name


def test_a_single_file_may_have_a_manifest_beside_it(
    root: Path, write: Callable[..., Path]
) -> None:
    write("greet.ts")
    manifest = write("greet.yaml", "runtime: deno\ntimeout: 5s\n")
    function = found(root)["greet"]
    assert function.runtime is Runtime.DENO
    assert function.manifest.timeout == 5.0
    assert function.manifest_file == manifest.resolve()


def test_what_is_no_function_is_passed_over(root: Path, write: Callable[..., Path]) -> None:
    for path in (
        ".hidden/index.py",
        "_shared/index.py",
        "node_modules/index.js",
        "docs/readme.md",
        "README.md",
        "types.d.ts",
        "hello.test.ts",
        "vite.config.js",
        "compose.yaml",
        "_helpers.py",
        ".env.py",
    ):
        write(path, "not: [valid")
    (root / "empty").mkdir()
    assert found(root) == {}


# --- Manifests


@pytest.mark.parametrize("name", ["function.yaml", "function.yml", "manifest.yaml"])
def test_a_manifest_is_read(root: Path, write: Callable[..., Path], name: str) -> None:
    write("hello/src/app.py")
    write(f"hello/{name}", "runtime: python\nentrypoint: src/app.py\nmemory: 256mb\n")
    function = found(root)["hello"]
    assert function.entrypoint == "src/app.py"
    assert function.where("memory").endswith(f"functions/hello/{name}:3")
    assert function.where("pids").endswith(f"functions/hello/{name}:1")


def test_where_a_nested_field_stands(root: Path, write: Callable[..., Path]) -> None:
    write("hello/index.py")
    write("hello/function.yaml", "env:\n  A: x\n  B: y\n")
    assert found(root)["hello"].where("env", "B") == "functions/hello/function.yaml:3"


def test_without_a_manifest_the_place_is_the_directory(
    root: Path, write: Callable[..., Path]
) -> None:
    write("hello/index.py")
    assert found(root)["hello"].where("memory") == "functions/hello"


def test_two_manifests_are_one_too_many(root: Path, write: Callable[..., Path]) -> None:
    write("good.py")
    write("bad/index.py")
    write("bad/function.yaml")
    write("bad/manifest.yaml")
    assert "it has function.yaml and manifest.yaml (keep one of them)" in only_problem(root)


def test_the_name_in_a_manifest_is_the_functions(root: Path, write: Callable[..., Path]) -> None:
    write("folder with spaces/index.py")
    write("folder with spaces/function.yaml", "name: hello\n")
    assert list(found(root)) == ["hello"]


@pytest.mark.parametrize(
    ("runtime", "files", "entrypoint"),
    [
        ("deno", ["index.ts"], "index.ts"),
        ("node", ["main.ts", "index.js"], "main.ts"),
        ("python", ["index.js", "main.py"], "main.py"),
        ("bun", ["index.tsx"], "index.tsx"),
        ("go", ["index.py", "index.go"], "index.go"),
    ],
)
def test_a_runtime_alone_finds_its_entry_file(
    root: Path, write: Callable[..., Path], runtime: str, files: list[str], entrypoint: str
) -> None:
    for name in files:
        write(f"hello/{name}")
    write("hello/function.yaml", f"runtime: {runtime}\n")
    function = found(root)["hello"]
    assert (function.runtime, function.entrypoint) == (Runtime(runtime), entrypoint)


def test_an_entrypoint_alone_tells_the_runtime(root: Path, write: Callable[..., Path]) -> None:
    write("hello/src/x.ts")
    write("hello/deno.json")
    write("hello/function.yaml", "entrypoint: src/x.ts\n")
    assert found(root)["hello"].runtime is Runtime.DENO


def test_path_leads_to_the_sources(root: Path, write: Callable[..., Path]) -> None:
    write("hello/src/index.py")
    write("hello/function.yaml", "path: src\n")
    assert found(root)["hello"].source == (root / "hello/src").resolve()


def test_a_binary_is_the_one_executable(root: Path, write: Callable[..., Path]) -> None:
    write("hello/serve", b"\x7fELF", mode=0o755)
    write("hello/notes.txt")
    write("hello/function.yaml", "runtime: binary\n")
    function = found(root)["hello"]
    assert (function.entrypoint, function.interface) == ("serve", "stdio")


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("runtime: python", "1:10: error: there is no entry file for the runtime python"),
        ("timeout: 5s", "error: there is no entry file here (add one such as index.js"),
        ("runtime: binary", "there is not exactly one executable file"),
        ("entrypoint: missing.py", "1:13: error: entrypoint 'missing.py': it does not exist"),
        ("entrypoint: folder.py", "entrypoint 'folder.py': it is a directory, not a file"),
        ("entrypoint: script.sh", "which runtime runs 'script.sh' cannot be told"),
        ("entrypoint: x.js\nruntime: python", "'x.js' is no file for the runtime python"),
        ("entrypoint: x.js\nruntime: binary", "'x.js' is not executable (run chmod +x"),
        ("path: missing", "1:7: error: path 'missing': it does not exist"),
        ("path: x.js", "path 'x.js': it is not a directory"),
        ("entrypoint: x.js\ndependencies: package.json", "'package.json': it does not exist"),
        ("runtime: node\nbuild: {command: a, output: dist}", "add `entrypoint`: the file inside"),
        ("runtime: perl", "runtime: expected one of deno, node"),
    ],
)
def test_a_bad_manifest_is_told_and_hides_no_good_one(
    root: Path, write: Callable[..., Path], manifest: str, message: str
) -> None:
    write("good.py")
    write("bad/x.js")
    write("bad/script.sh")
    (root / "bad/folder.py").mkdir()
    write("bad/function.yaml", manifest)
    problem = only_problem(root)
    assert problem.startswith("functions/bad/function.yaml:")
    assert message in problem
    assert discover(root).problems[0].function == "bad"


def test_a_binary_may_say_that_it_is_a_handler(root: Path, write: Callable[..., Path]) -> None:
    write("hello/serve", mode=0o755)
    write("hello/function.yaml", "runtime: binary\ninterface: handler\n")
    assert found(root)["hello"].interface == "handler"


def test_problems_name_the_function_as_its_manifest_does(
    root: Path, write: Callable[..., Path]
) -> None:
    write("folder/index.py")
    write("folder/function.yaml", "name: hello\nmemroy: 1\n")
    assert discover(root).problems[0].function == "hello"


def test_two_functions_of_one_name_are_both_told(root: Path, write: Callable[..., Path]) -> None:
    write("hello/index.py")
    write("hello.js")
    discovery = discover(root)
    assert [function.source.name for function in discovery.functions] == ["hello"]
    assert texts(discovery) == [
        "functions/hello.js: error: a second function named 'hello': the first is functions/hello "
        "(rename one of them)"
    ]


def test_a_manifest_in_the_functions_directory_itself(
    root: Path, write: Callable[..., Path]
) -> None:
    write("good.py")
    write("function.yaml")
    assert "stands in the functions directory itself" in only_problem(root)


def test_a_functions_directory_that_is_missing(tmp_path: Path) -> None:
    discovery = discover(tmp_path / "missing")
    assert discovery.functions == ()
    assert "the functions directory cannot be used: it does not exist" in texts(discovery)[0]


def test_a_file_as_functions_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be used" in texts(discover(tmp_path / "file"))[0]


def test_paths_are_shown_as_they_were_given(
    root: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of an absolute path, which callers may see, nothing of the host."""
    write("bad/function.yaml", "x: 1")
    monkeypatch.chdir(root.parent)
    assert texts(discover(Path("functions")))[0].startswith("functions/bad/function.yaml:1:1:")
    assert texts(discover(root))[0].startswith("functions/bad/function.yaml:1:1:")
    monkeypatch.chdir(root)
    assert texts(discover(Path()))[0].startswith("bad/function.yaml:1:1:")


# --- Builds


def test_a_build_makes_the_entrypoint(root: Path, write: Callable[..., Path]) -> None:
    """As in Alyx's own TypeScript example, before and after its build."""
    write("hello/index.ts", "export default async (ctx) => ctx.input")
    write(
        "hello/manifest.yaml",
        "runtime: node\nbuild: {command: npm, args: [run, build], output: dist/index.js}\n",
    )
    for _ in range(2):
        function = found(root)["hello"]
        assert function.entrypoint == "dist/index.js"
        assert function.source_entrypoint == "index.ts"
        assert function.interface == "handler"
        write("hello/dist/index.js", "")


def test_an_entrypoint_inside_the_builds_output_need_not_be_there(
    root: Path, write: Callable[..., Path]
) -> None:
    write(
        "hello/function.yaml",
        "runtime: node\nentrypoint: dist/a.js\nbuild: {command: npm, output: dist}\n",
    )
    function = found(root)["hello"]
    assert (function.entrypoint, function.source_entrypoint) == ("dist/a.js", None)


# --- schema.yaml


def test_a_schema_declares_functions(root: Path, write: Callable[..., Path]) -> None:
    """Alyx's own form, with everything else that such a file has."""
    write("hello/index.py")
    write("elsewhere/app/index.js")
    write("functions/nested/main.py")
    write(
        "schema.yaml",
        "version: 1\n"
        "collections: {users: {fields: {id: {type: uuid, primary: true}}}}\n"
        "buckets: {}\n"
        "functions:\n"
        "  hello:\n"
        "    runtime: python\n"
        "    entrypoint: index.py\n"
        "    timeout: 5s\n"
        "  there:\n"
        "    path: elsewhere/app\n"
        "  nested:\n",
    )
    functions = found(root)
    assert sorted(functions) == ["hello", "nested", "there"]
    assert functions["hello"].where("timeout") == "functions/schema.yaml:8"
    assert functions["there"].source == (root / "elsewhere/app").resolve()
    assert functions["nested"].source == (root / "functions/nested").resolve()


def test_an_alyx_project_also_has_functions_it_does_not_declare(
    root: Path, write: Callable[..., Path]
) -> None:
    write("schema.yaml", "functions:\n  declared: {runtime: python}\n")
    write("functions/declared/index.py")
    write("functions/undeclared/index.py")
    write("functions/single.py")
    write("web/index.ts")
    assert sorted(found(root)) == ["declared", "single", "undeclared"]


def test_a_schema_in_the_functions_directory_itself(root: Path, write: Callable[..., Path]) -> None:
    write("schema.yaml", "functions:\n  declared: {runtime: python}\n")
    write("declared/index.py")
    write("undeclared/index.py")
    assert sorted(found(root)) == ["declared", "undeclared"]


def test_the_schema_wins_over_a_manifest_and_says_so(
    root: Path, write: Callable[..., Path]
) -> None:
    write("schema.yaml", "functions:\n  hello: {runtime: python, memory: 1gb}\n")
    write("functions/hello/index.py")
    write("functions/hello/manifest.yaml", "runtime: python\nmemory: 64mb\n")
    discovery = discover(root)
    assert discovery.functions[0].manifest.memory == 1024**3
    assert [problem.severity for problem in discovery.problems] == ["warning"]
    assert "functions/functions/hello/manifest.yaml" in texts(discovery)[0]
    assert "functions/schema.yaml:2 describes the function" in texts(discovery)[0]


def test_a_bad_entry_of_a_schema_hides_no_good_one(root: Path, write: Callable[..., Path]) -> None:
    for name in ("good", "bad", "worse", "twice"):
        write(f"{name}/index.py")
    write(
        "schema.yaml",
        "functions:\n"
        "  bad: {runtime: pyhton}\n"
        "  worse: 5\n"
        "  missing: {}\n"
        "  ../evil: {}\n"
        "  named: {name: other, path: good}\n"
        "  outside: {path: ../x}\n"
        "  twice: {pids: 1, pids: 2}\n"
        "  good: {}\n",
    )
    discovery = discover(root)
    assert [function.name for function in discovery.functions] == ["good"]
    by_function = {problem.function: str(problem) for problem in discovery.problems}
    assert "schema.yaml:2:18: error: runtime: expected one of" in by_function["bad"]
    assert "schema.yaml:3:10: error: expected a map" in by_function["worse"]
    assert "'missing' or 'functions/missing': it does not exist" in by_function["missing"]
    assert "'../evil' is no function name" in by_function["../evil"]
    assert "the key already names this function" in by_function["named"]
    assert "the path must stay inside" in by_function["outside"]
    assert "'pids' stands here twice" in by_function["twice"]


def test_what_else_a_schema_says_is_not_judged(root: Path, write: Callable[..., Path]) -> None:
    write("good/index.py")
    write(
        "schema.yaml",
        "base: &base {a: 1}\nrest: {<<: *base, x: !Custom 1}\n"
        "functions: {good: {}}\nmore: {b: 1, b: 2}",
    )
    assert list(found(root)) == ["good"]


@pytest.mark.parametrize("schema", ["collections: {}", "- a", "", "functions:", "functions: {}"])
def test_a_schema_without_functions_changes_nothing(
    root: Path, write: Callable[..., Path], schema: str
) -> None:
    write("good.py")
    write("schema.yaml", schema)
    assert list(found(root)) == ["good"]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("functions: [a]", "schema.yaml:1:12: error: functions: expected a map of names"),
        ("functions: {a: ", "schema.yaml:1:12: error: not valid YAML"),
    ],
)
def test_a_schema_that_cannot_be_read(
    root: Path, write: Callable[..., Path], schema: str, message: str
) -> None:
    write("good.py")
    write("schema.yaml", schema)
    assert "schema.yaml" in only_problem(root)
    assert "error" in message


# --- Hostile directories


def in_time(action: Callable[[], Any], seconds: float = 5) -> Any:
    """What `action` returns, which has to be soon."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


@pytest.mark.parametrize(
    "path", ["bad/function.yaml", "bad/index.py", "bad.py", "bad/index.js", "schema.yaml"]
)
def test_a_fifo_never_blocks(root: Path, write: Callable[..., Path], path: str) -> None:
    write("good.py")
    (root / "bad").mkdir()
    os.mkfifo(root / path)
    problem = in_time(lambda: only_problem(root))
    assert "it is a FIFO, not a file" in problem


def test_a_fifo_of_no_meaning_is_passed_over(root: Path, write: Callable[..., Path]) -> None:
    write("good.py")
    os.mkfifo(root / "pipe")
    assert list(in_time(lambda: found(root))) == ["good"]


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../../secret", "good.yaml"])
def test_a_manifest_that_is_a_link_is_refused(
    root: Path, write: Callable[..., Path], target: str
) -> None:
    (root.parent / "secret").write_text("canary: 1")
    write("good.py")
    write("bad/index.py")
    (root / "bad/function.yaml").symlink_to(target)
    problem = in_time(lambda: only_problem(root))
    assert "it is a symbolic link (put the file itself there)" in problem
    assert "canary" not in problem


def test_an_entrypoint_that_leads_out_is_refused(root: Path, write: Callable[..., Path]) -> None:
    (root.parent / "outside.py").write_text(HANDLER)
    write("good.py")
    (root / "bad").mkdir()
    (root / "bad/index.py").symlink_to("../../outside.py")
    assert "a symbolic link on its way leaves the directory" in only_problem(root)


def test_an_entrypoint_through_a_directory_that_leads_out_is_refused(
    root: Path, write: Callable[..., Path]
) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "x.py").write_text(HANDLER)
    write("good.py")
    write("bad/function.yaml", "entrypoint: lib/x.py")
    (root / "bad/lib").symlink_to(outside)
    assert "entrypoint 'lib/x.py': a symbolic link on its way leaves" in only_problem(root)


def test_links_that_stay_inside_are_followed(root: Path, write: Callable[..., Path]) -> None:
    write("hello/src/app.py", HANDLER)
    (root / "hello/index.py").symlink_to("src/app.py")
    function = found(root)["hello"]
    assert (function.entrypoint, function.interface) == ("index.py", "handler")


@pytest.mark.parametrize("name", ["bad", "bad.py"])
def test_a_function_that_leads_out_is_refused(
    root: Path, write: Callable[..., Path], name: str
) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "index.py").write_text(HANDLER)
    write("good.py")
    (root / name).symlink_to(outside if name == "bad" else outside / "index.py")
    assert "a symbolic link on its way leaves the directory" in only_problem(root)


@pytest.mark.parametrize("path", ["bad", "bad.py", "bad/index.py"])
def test_a_loop_of_links_is_told(root: Path, write: Callable[..., Path], path: str) -> None:
    write("good.py")
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).symlink_to(Path(path).name)
    assert "link" in in_time(lambda: only_problem(root))


def test_a_functions_folder_that_leads_out_is_refused(
    root: Path, write: Callable[..., Path]
) -> None:
    outside = root.parent / "outside"
    (outside / "evil").mkdir(parents=True)
    (outside / "evil/index.py").write_text(HANDLER)
    write("schema.yaml", "functions: {}")
    (root / "functions").symlink_to(outside)
    discovery = discover(root)
    assert discovery.functions == ()
    assert "leaves the directory" in texts(discovery)[0]


def test_hard_links_to_files_of_the_same_user_are_taken(
    root: Path, write: Callable[..., Path]
) -> None:
    """Package managers make them."""
    (root / "hello").mkdir()
    (root / "hello/index.py").hardlink_to(write("_source.py", HANDLER))
    assert found(root)["hello"].interface == "handler"


def test_hard_links_to_files_of_another_user_are_refused(write: Callable[..., Path]) -> None:
    file = write("a.py")
    alone = file.stat()
    check_hard_link(alone, owner=alone.st_uid + 1)
    (file.parent / "b.py").hardlink_to(file)
    check_hard_link(file.stat(), owner=alone.st_uid)
    with pytest.raises(FileRefusedError, match="hard link to a file of another user"):
        check_hard_link(file.stat(), owner=alone.st_uid + 1)


@pytest.mark.parametrize(
    "name",
    ["-rf", "a b", "1st", "x" * 70, "hellо", "a:b", "a,b", "a\nb", "x" * 251],  # noqa: RUF001
)
def test_a_directory_of_a_bad_name_is_told(
    root: Path, write: Callable[..., Path], name: str
) -> None:
    write("good.py")
    write(f"{name}/index.py")
    problem = only_problem(root)
    assert "is no function name" in problem
    assert "\n" not in problem


def test_a_name_that_is_no_unicode_is_told(root: Path, write: Callable[..., Path]) -> None:
    write("good.py")
    bad = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(bad)  # noqa: PTH102 - bytes
    Path(os.fsdecode(bad + b"/index.py")).write_text("")
    assert "is no function name" in only_problem(root)
    only_problem(root).encode()


@pytest.mark.parametrize("name", ["a:b.py", "a,b.py", "a b.py"])
def test_an_entrypoint_may_have_what_a_mount_string_would_split(
    root: Path, write: Callable[..., Path], name: str
) -> None:
    write(f"hello/{name}")
    write("hello/function.yaml", f'entrypoint: "{name}"')
    assert found(root)["hello"].entrypoint == name


@pytest.mark.parametrize(
    "manifest",
    [
        b"x" * 10_000_000,
        b"[" * 10_000,
        b"sample_input: !!python/object/apply:os.system ['touch /tmp/pwned']",
        b"name: \xff",
        b"\x00",
        b"name: a\nname: b",
        b"privileged: true",
    ],
)
def test_a_hostile_manifest_hides_no_good_function(
    root: Path, write: Callable[..., Path], manifest: bytes
) -> None:
    write("good.py")
    write("bad/index.py")
    write("bad/function.yaml", manifest)
    assert in_time(lambda: only_problem(root)).startswith("functions/bad/function.yaml")


def test_nothing_is_executed(root: Path, write: Callable[..., Path]) -> None:
    canary = root.parent / "canary"
    code = f"open({str(canary)!r}, 'w')\ndef handler(ctx): pass\n"
    write("hello/index.py", code)
    write("hello/__init__.py", code)
    write("sitecustomize.py", code)
    assert found(root)["hello"].interface == "handler"
    assert not canary.exists()


def test_a_directory_that_cannot_be_entered_is_told(root: Path, write: Callable[..., Path]) -> None:
    write("good.py")
    write("bad/index.py")
    (root / "bad").chmod(0)
    try:
        discovery = discover(root)
    finally:
        (root / "bad").chmod(0o755)
    if os.geteuid() == 0:  # root may enter everything
        assert len(discovery.functions) == 2
    else:
        assert "it cannot be read" in texts(discovery)[0]


def test_too_large_a_source_is_taken_as_stdio_with_a_warning(
    root: Path, write: Callable[..., Path]
) -> None:
    write("hello/index.js", "export default 1;" + " " * 1024 * 1024)
    discovery = discover(root)
    assert discovery.functions[0].interface == "stdio"
    assert discovery.problems[0].severity == "warning"
    assert "the interface of 'index.js' cannot be told" in texts(discovery)[0]
    write("hello/function.yaml", "interface: handler")
    assert found(root)["hello"].interface == "handler"


def test_twenty_functions_are_found_quickly(root: Path, write: Callable[..., Path]) -> None:
    for number in range(20):
        write(f"f{number}/index.py", STDIO)
        write(f"f{number}/function.yaml", "runtime: python\ntimeout: 30s\nenv: {A: b}\n")
    discover(root)
    started = time.process_time()
    discover(root)
    assert time.process_time() - started < 0.2  # some ten times what it takes


# --- One file or directory


def test_a_function_from_a_file(write: Callable[..., Path]) -> None:
    function, problems = function_from_path(write("1 my script.py", HANDLER))
    assert problems == []
    assert function is not None
    assert (function.name, function.entrypoint) == ("my-script", "1 my script.py")
    assert (function.runtime, function.interface) == (Runtime.PYTHON, "handler")


def test_a_function_from_an_executable(write: Callable[..., Path]) -> None:
    function, _ = function_from_path(write("tool", b"\x7fELF", mode=0o755))
    assert function is not None
    assert function.runtime is Runtime.BINARY


def test_a_function_from_a_directory(write: Callable[..., Path]) -> None:
    function, _ = function_from_path(write("hello/index.py").parent)
    assert function is not None
    assert (function.name, function.single_file) == ("hello", False)


def test_no_function_from_something_else(root: Path, write: Callable[..., Path]) -> None:
    for path in (write("notes.txt"), root / "missing.py", root):
        function, problems = function_from_path(path)
        assert function is None
        assert problems
