"""The command line. Installed as `sandbox_cli`: the name `cli` belongs to nobody.

No business logic here: commands read arguments, call `sandbox`, and lay out what comes back.
"""
