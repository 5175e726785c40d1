"""Hot reload in a program of your own: `.venv/bin/python examples/hot_reload.py`.

It edits a function three times; the last edit has a mistake, and changes nothing.
"""

import queue
import tempfile
from pathlib import Path

from sandbox import Sandbox

with tempfile.TemporaryDirectory() as directory:
    greet = Path(directory, "greet.py")
    greet.write_text('def handler(ctx):\n    return "Hello"\n')
    events = queue.Queue()
    with Sandbox(directory) as sandbox, sandbox.hot_reload(on_event=events.put):
        event = events.get()
        print("added", *event.added)
        print(sandbox.invoke("greet").output)

        greet.write_text('def handler(ctx):\n    return "Good morning"\n')
        event = events.get()
        print("changed", *event.changed)
        print(sandbox.invoke("greet").output)

        greet.write_text("def handler(")
        event = events.get()
        for problem in event.problems:
            print(f"{problem.function}: {problem.message.splitlines()[0]}")
        print(sandbox.invoke("greet").output)
