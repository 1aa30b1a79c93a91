"""The files of the service: where they lie, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ringfeedd.config.settings import DEFAULT_STORE_WAIT_S, SETTINGS
from ringfeedd.config.shown import example

from .host import NOTIFY_RELOAD, USER, USER_COMMENT, Host

_TEMPLATES: Final = Path(__file__).parent / "templates"

UNITS: Final = Path("/etc/systemd/system")
UNIT: Final = "ringfeed.service"
TEMPLATE: Final = "ringfeed@.service"
SYSUSERS: Final = Path("/etc/sysusers.d/ringfeed.conf")
CONFIGS: Final = Path("/etc/ringfeed")
DEFAULT: Final = "ringfeed"
"""The config of ringfeed.service; every other one is an instance of ringfeed@.service."""

STORE_WAIT_S: Final = DEFAULT_STORE_WAIT_S
"""It is given, so that a machine that boots before its network is up waits for a host that has never answered, too."""

MARKS: Final = ("# Installed by `ringfeed install-service`", "# Installed by scripts/install-systemd")
"""What tells our units from another author's; the second one stands in those of older releases."""


def config_path(name: str) -> Path:
    """Return where the config of this name lies."""
    return CONFIGS / f"{name}.toml"


def service_of(name: str) -> str:
    """Return the unit that serves the config of this name."""
    return UNIT if name == DEFAULT else f"ringfeed@{name}.service"


def unit_text(executable: Path, group: str, host: Host, *, instances: bool) -> str:
    """Return a unit file.

    Args:
        group: the unix group that may attach.
        instances: the unit for several configs, each named after its ``@``.
    """
    own = f"{CONFIGS}/%i." if instances else ""
    reloads = host.systemd >= NOTIFY_RELOAD
    values = {
        "@EXEC@": f'"{executable}"' if " " in str(executable) or "," in str(executable) else str(executable),
        "@DESCRIPTION@": " (config %i)" if instances else "",
        "@CONFIG@": f"{own}toml" if instances else str(config_path(DEFAULT)),
        "@CONFIGS@": str(CONFIGS),
        "@OWN_ENVIRONMENT@": f"EnvironmentFile=-{own}environment" if instances else "",
        "@OWN_CREDENTIALS@": _credentials(own) if instances else "",
        "@TYPE@": "notify-reload" if reloads else "notify",
        "@RELOAD@": "" if reloads else "ExecReload=/bin/kill -HUP $MAINPID",
        "@SUPPLEMENTARY_GROUPS@": f"SupplementaryGroups={group}" if group != USER else "",
        "@DOCUMENTATION@": _documentation(executable),
    }
    text = _template("ringfeed.service")
    for name, value in values.items():
        text = text.replace(name, value) if value else re.sub(rf"^{name}\n|{name}", "", text, flags=re.MULTILINE)
    return text


def _credentials(own: str) -> str:
    """Return the lines of what only this config has; the names are those of `ringfeedd.system.credentials`."""
    kinds = (("gcs-key", "gcs-key.json"), ("http-token", "http-token"))
    return "\n".join(f"LoadCredential={kind}.own:{own}{file}\nSetCredential={kind}.own:none" for kind, file in kinds)


def _documentation(executable: Path) -> str:
    """Return the line that names the documents if they are installed: a package has them, a checkout does not."""
    for folder in (executable.parent, executable.resolve().parent):
        documents = [folder.parent / "share/doc/ringfeed" / name for name in ("operations.md", "troubleshooting.md")]
        if all(document.is_file() for document in documents):
            return "Documentation=" + " ".join(document.as_uri().replace("%", "%%") for document in documents)
    return ""


def sysusers_text() -> str:
    """Return the declaration of the service's user for systemd-sysusers."""
    return _template("ringfeed.sysusers").replace("@USER@", USER).replace("@COMMENT@", USER_COMMENT)


def config_text(name: str, group: str) -> str:
    """Return the example config; that of an instance serves rings of its own."""
    given: dict[str, Any] = {"root": SETTINGS["root"].example, "group": group, "store_wait_s": STORE_WAIT_S}
    if name != DEFAULT:
        given["ring"] = name
    return example(given, file=str(config_path(name)), unit=service_of(name).removesuffix(".service"))


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
