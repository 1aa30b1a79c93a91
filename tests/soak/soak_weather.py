"""What the soak's store does wrong, and for how long: bad answers, broken connections, and outages of three kinds."""

from __future__ import annotations

from pathlib import Path

from store_process import StoreProcess

ALWAYS = "latency+0.003 503:0.01 reset:0.01"
"""A store is never quite well."""

FAULTS = {
    "every other read is a 503": "503:0.5",
    "a third of the reads is a 429": "429+1:0.3",
    "bodies stall": "stall:0.1 silent:0.05",
    "bodies are cut off": "truncate:0.2 cut:0.2 short:0.2",
    "connections are reset": "reset:0.4",
    "bits flip": "flip:0.4",
    "somebody else answers": "html:0.2 redirect:0.1 moved:0.1",
    "reads get hostile answers": "hostile:0.3",
}
"""Under these a daemon can be started: the listing is spared."""

REFUSING, AWAY, SILENT = "every request is a 503", "nobody is on its port", "it takes connections and says nothing"
HOSTILE_PAGES = "listings get hostile answers"
OUTAGES = (REFUSING, AWAY, SILENT, HOSTILE_PAGES)
"""Under these no daemon can be started."""


class Weather:
    """The store's process, and its problem at the moment.

    Attributes:
        now: the problem; empty while there is only what `ALWAYS` is.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        faults = [word for fault in ALWAYS.split() for word in ("--fault", fault)]
        self.store = StoreProcess(folder, "--seed", str(seed), *faults)
        self.now = ""

    @property
    def outage(self) -> bool:
        return self.now in OUTAGES

    def begin(self, kind: str) -> None:
        """One of `FAULTS` or `OUTAGES`; `end` comes before the next."""
        assert not self.now
        self.now = kind
        if kind == AWAY:
            self.store.kill()
        elif kind == SILENT:
            self.store.pause()
        else:
            self._set("list/hostile" if kind == HOSTILE_PAGES else FAULTS.get(kind, "any/503"))

    def end(self) -> None:
        """All is well again, as far as it ever is."""
        if self.now == AWAY:
            self.store.start()
        elif self.now == SILENT:
            self.store.resume()
        elif self.now:
            self._set("")
        self.now = ""

    def _set(self, faults: str) -> None:
        self.store.ask("/_faults", "POST", f"{faults} {ALWAYS}".encode())
