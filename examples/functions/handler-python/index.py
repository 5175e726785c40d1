"""A handler function: what it returns is the output, what it raises is the error.

What it prints goes to the logs and cannot get into the response.
"""


async def handler(ctx):
    name = ctx.input.get("name", "World")
    ctx.log.info("greeting", {"name": name})
    print("printed lines are logs too")
    return {
        "message": f"Hello, {name}! (from a Python handler)",
        "caller": ctx.auth["email"] if ctx.auth else "anonymous",
    }
