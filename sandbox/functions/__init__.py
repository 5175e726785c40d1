"""Functions as a directory declares them: manifests, entry files, interfaces, dependencies; must
not know engines or containers.
"""
