"""The host side of the network policy: each container's way out, one socket per destination."""
