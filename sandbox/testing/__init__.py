"""A fake engine for tests, whose containers are Python functions; must not know Docker.

def hello(ctx):
    return {"message": f"Hello, {ctx.input['name']}!"}

with Sandbox("functions", engine=FakeEngine({"hello": hello})) as sandbox:
    response = sandbox.invoke("hello", {"name": "World"})

Nothing of the product imports this package. See docs/testing.md.
"""

from sandbox.testing.builds import FakeBuild, default_build
from sandbox.testing.container import FakeContainer
from sandbox.testing.engine import FakeEngine
from sandbox.testing.functions import FakeContext, FakeFunction
from sandbox.testing.process import FakeProcess

__all__ = [
    "FakeBuild",
    "FakeContainer",
    "FakeContext",
    "FakeEngine",
    "FakeFunction",
    "FakeProcess",
    "default_build",
]
