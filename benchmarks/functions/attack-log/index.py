import sys


def handler(ctx):
    while True:
        sys.stderr.write("a\n")
