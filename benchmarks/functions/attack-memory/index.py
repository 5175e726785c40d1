def handler(ctx):
    hoard = []
    while True:
        hoard.append(bytearray(1 << 20))
