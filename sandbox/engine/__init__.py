"""The protocols of a container engine, and what all engines share; must not know functions,
policies or requests.
"""
