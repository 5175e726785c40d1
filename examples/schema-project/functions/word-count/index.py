def handler(input, ctx):
    words = input["text"].split()
    ctx.log.debug("counted", {"words": len(words)})
    return {"words": len(words)}
