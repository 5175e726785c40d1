"""Serves a function's handler: requests come line by line on stdin, answers leave on descriptor 3.

Run as `init --handler python3 bootstrap.py FILE`. Init has made descriptor 1 the container's
stderr, so whatever the function prints goes to the logs. Modules that are slow to import are
imported where they are needed, since every cold start waits for this file.
"""

import json
import os
import resource
import sys
import time
import types

PROTOCOL = 3
# What a function can write to. Between two requests nothing stays there.
WRITABLE = "/tmp", "/dev/shm"


def send(message):
    """Write one message; nothing is written if it is not JSON (TypeError, ValueError)."""
    data = memoryview(json.dumps(message, allow_nan=False).encode() + b"\n")
    while data:
        data = data[os.write(PROTOCOL, data) :]


def wipe():
    """Remove what an earlier request left in files."""
    import shutil

    for directory in WRITABLE:
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
                continue
            try:
                os.unlink(entry.path)
            except FileNotFoundError:  # something of the function's own was faster
                pass


class Log:
    """`ctx.log`: entries for the invocation's logs."""

    def debug(self, message, data=None):
        self._write("debug", message, data)

    def info(self, message, data=None):
        self._write("info", message, data)

    def warn(self, message, data=None):
        self._write("warn", message, data)

    def error(self, message, data=None):
        self._write("error", message, data)

    def _write(self, level, message, data):
        now = time.time()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        send(
            {
                "type": "log",
                "level": level,
                "message": str(message),
                "data": as_object(data),
                "timestamp": f"{clock}.{int(now * 1000) % 1000:03d}Z",
            }
        )


class Context:
    """What a handler is given; `ctx.input` and `ctx["input"]` are the same."""

    def __init__(self, request):
        context = request.get("context") or {}
        self.input = request.get("input") or {}
        self.auth = context.get("auth")
        self.env = context.get("env") or {}
        self.request_id = request.get("request_id", "")
        self.function = request.get("function", "")
        self.alyx_url = context.get("alyx_url", "")
        self.internal_token = context.get("internal_token", "")
        self.log = Log()

    def __getitem__(self, name):
        return vars(self)[name]


def as_object(value):
    """`value` as a JSON object, with text in the place of what is not JSON; None stays None."""
    if value is None:
        return None
    try:
        value = json.loads(json.dumps(value, allow_nan=False, default=str))
    except (TypeError, ValueError, RecursionError):  # a key that is no text, NaN, a cycle
        value = repr(value)
    return value if isinstance(value, dict) else {"value": value}


def load(path):
    """The handler that the file at `path` defines."""
    # The function's own folder takes the place of this file's, so that it can import its modules.
    sys.path[0] = os.path.dirname(path)
    name = os.path.splitext(os.path.basename(path))[0]
    module = types.ModuleType("__function__" if name in sys.modules else name)
    module.__file__ = path
    sys.modules[module.__name__] = module
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec"), module.__dict__)
    handler = getattr(module, "handler", None)
    if not callable(handler):
        raise LookupError(f"{os.path.basename(path)} defines no function `handler`")
    return handler


def takes_input_and_context(handler):
    """Whether it is `handler(input, ctx)` and not `handler(ctx)`."""
    if type(handler) is types.FunctionType and not hasattr(handler, "__wrapped__"):
        return handler.__code__.co_argcount - len(handler.__defaults__ or ()) >= 2
    import inspect

    return 2 <= sum(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(handler).parameters.values()
    )


def call(handler, request):
    """What the handler returns for `request`."""
    context = Context(request)
    if takes_input_and_context(handler):
        output = handler(context.input, context)
    else:
        output = handler(context)
    if hasattr(output, "__await__"):
        import asyncio

        async def wait():
            return await output

        output = asyncio.run(wait())
    return output


def describe(error):
    """The contract's error document for an exception; its trace goes to the logs."""
    try:
        import traceback
    except OSError:  # it has opened all the files that it may
        sys.__excepthook__(type(error), error, error.__traceback__)
    else:
        traceback.print_exception(error)
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    if isinstance(error, OSError) and error.errno is not None:
        import errno

        fields["errno"] = errno.errorcode.get(error.errno, error.errno)
    # An exception class may carry its code for all of its instances.
    code = fields.pop("code", getattr(error, "code", None))
    if not (isinstance(code, str) and code):
        if code is not None:
            fields["code"] = code
        code = "FUNCTION_ERROR"
    message = fields.pop("message", None) or str(error) or type(error).__name__
    details = fields.pop("details", None)
    if details is not None:
        fields |= details if isinstance(details, dict) else {"details": details}
    return {"code": code, "message": str(message), "details": as_object(fields)}


def cpu_ms():
    """CPU time of this process and its children so far."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) * 1000


def main():
    os.set_inheritable(PROTOCOL, False)
    # Into a pipe Python would write what is printed only at the end: out of order with the rest of
    # the logs, and not at all when the function is killed.
    sys.stdout.reconfigure(line_buffering=True)
    try:
        handler = load(sys.argv[1])
    except Exception as error:
        send({"type": "init_error", "error": describe(error)})
        sys.exit(1)
    send({"type": "ready"})
    # The first request is charged for the start too.
    charged = 0.0
    for number, line in enumerate(sys.stdin.buffer):
        if number:
            wipe()
        request = json.loads(line)
        response = {"type": "response", "request_id": request.get("request_id", "")}
        try:
            outcome = {"success": True, "output": call(handler, request)}
        except Exception as error:
            outcome = {"success": False, "error": describe(error)}
        used = cpu_ms()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        response["usage"] = {"cpu_ms": round(used - charged, 3), "peak_memory_bytes": peak}
        charged = used
        sys.stdout.flush()
        try:
            send(response | outcome)
        except (TypeError, ValueError, RecursionError) as error:
            message = f"what the handler returned is not JSON: {error}"
            failure = {"code": "FUNCTION_ERROR", "message": message, "details": {}}
            send(response | {"success": False, "error": failure})


main()
