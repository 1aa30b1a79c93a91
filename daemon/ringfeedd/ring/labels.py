"""What a group is called in metrics: names that are made up for one run share a label, so no run begins a series."""

from __future__ import annotations

import re
from typing import Final

GENERATED: Final = {
    "anonymous": re.compile(r"anonymous-\d+-.*", re.DOTALL),  # `ringfeed.attach` without a group
    "dataset": re.compile(r"dataset-\d+-.*", re.DOTALL),  # `RingDataset` in a job of one process, and its workers
    "job": re.compile(r"(parent-\d+|torchrun-.*|.*:\d+)-.*", re.DOTALL),  # in a job of several
}
"""By the label that stands for them: names of groups that are made up for one run."""


def group_label(group: str) -> str:
    """Return the label of a group.

    A reader without a group has a name with a process id in it, and so have the ranks of a job whose group the user did
    not name; each run would begin a time series of its own.
    """
    return next((kind for kind, names in GENERATED.items() if names.fullmatch(group)), group)
