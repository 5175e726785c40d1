"""The functions' only way out: sockets on this host, joined to the destinations that are allowed;
knows neither engines nor manifests.
"""
