"""The command line: arguments, help, output; must not know how anything is done.

Installed as `sandbox_cli`: a package called `cli` would take that name from everyone.
"""
