"""The names of a router's tensors: rows of `data/routers.toml`."""

import functools

from streamconv.catalog.toml_tables import read_table


@functools.cache
def router_weights() -> tuple[str, ...]:
    """Return the names, below the experts' module, of weights with one row for each expert."""
    return tuple(read_table("routers.toml")["weight"])


@functools.cache
def router_biases() -> tuple[str, ...]:
    """Return the names, below the experts' module, of biases with one element for each expert."""
    return tuple(read_table("routers.toml")["bias"])


@functools.cache
def projections() -> tuple[str, ...]:
    """Return the names of modules that project hidden vectors for the experts only."""
    return tuple(read_table("routers.toml")["projections"])
