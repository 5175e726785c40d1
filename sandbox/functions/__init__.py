"""From a directory to functions: manifests, discovery, entry files, interfaces, dependencies;
knows no engine and runs nothing.
"""
