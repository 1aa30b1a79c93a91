"""The daemon's settings: one table, from which flags, files, variables, help and documents come; see `settings`."""

from ringfeedd.config.load import Loaded, config_of, load
from ringfeedd.config.resolve import Settings, resolve
from ringfeedd.config.settings import Config

__all__ = ["Config", "Loaded", "Settings", "config_of", "load", "resolve"]
