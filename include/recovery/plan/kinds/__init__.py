"""The settings of each kind of source, a module each; the module's name is the kind."""

from importlib import import_module
from pkgutil import iter_modules

from recovery.plan.source_settings import Kind

KINDS: dict[str, Kind] = dict(
    sorted(
        ((module.name, import_module(f"{__name__}.{module.name}").KIND) for module in iter_modules(__path__)),
        key=lambda each: each[1].restore_order,
    )
)
"""Every kind by its name, in the order of restoring."""
