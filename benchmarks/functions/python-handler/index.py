def handler(ctx):
    return ctx.input
