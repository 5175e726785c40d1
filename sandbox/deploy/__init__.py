"""From an edit to a served version: deployer, validation, watcher, hot reload; knows nothing of
requests.
"""
