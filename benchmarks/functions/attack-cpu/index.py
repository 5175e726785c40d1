def handler(ctx):
    while True:
        pass
