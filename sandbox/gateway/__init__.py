"""The only way out of a container: sockets on this host, joined to allowed destinations; must not
know manifests or who invokes.
"""
