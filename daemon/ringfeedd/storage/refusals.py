"""What to do about a request that the store refuses, by the reason that it gives. Pure."""

from __future__ import annotations

import re
from typing import Final

REFUSING: Final = frozenset({400, 403})
"""Statuses whose body may say what has to be changed."""

_LOOKED_AT_CHARS: Final = 4096
"""The part of a body that is looked at: the API's messages are shorter."""

_ADVICE: Final = (
    (
        r"requester\W?pays|no\Wuser\Wproject|userProjectMissing",
        "The bucket bills those who read it (requester pays): name the project that pays with --user-project.",
    ),
    (
        r"serviceusage\.services\.use|USER_PROJECT_DENIED|userProjectAccess",
        "The account needs the role Service Usage Consumer (serviceusage.services.use) on the project in user_project.",
    ),
    (
        r"vpcServiceControls|VPC_SERVICE_CONTROLS|SECURITY_POLICY_VIOLATED",
        "A perimeter of VPC Service Controls refuses requests from this network: ask those who administer it.",
    ),
    (
        r"accountDisabled|billing\W?(account|disabled|not\Wenabled)|UserProjectAccountProblem",
        "Check the billing account of the project that pays.",
    ),
    (
        r"insufficientPermissions|SCOPE_INSUFFICIENT|insufficient.{,20}scope",
        "The credentials lack the scope devstorage.read_only: on a Google VM, widen its access scopes.",
    ),
    (
        r"\bstorage\.(objects|buckets)\.(get|list)\b",
        "The account needs the role Storage Object Viewer (storage.objects.list and .get) on the bucket.",
    ),
)
"""Patterns of what a body says, and the advice for it; the first that is found counts."""

_COMPILED: Final = tuple((re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in _ADVICE)


def advice_for(status: int, body: str) -> str:
    """Return what to do about this answer, as a further sentence; nothing where the body does not say why."""
    if status not in REFUSING:
        return ""
    said = body[:_LOOKED_AT_CHARS]
    return next((f" {advice}" for pattern, advice in _COMPILED if pattern.search(said)), "")
