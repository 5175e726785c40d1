"""The codec: bytes in, values out; no sockets, no threads, no clock."""
