"""When no pair was found: what the objects that are there look like, and the templates that would have found them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Final

from ringfeedd.catalog.forms import Form, Likeness, forms_of
from ringfeedd.storage.skipped import Kind, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ringfeedd.catalog.catalog import Incomplete
    from ringfeedd.catalog.templates import KeyTemplates
    from ringfeedd.storage.base import Source

LOOKED_AT: Final = 300_000
"""Objects: a bucket lists all labels of a set before its first image."""

_PART: Final = re.compile(r"(train|val|test|dev)", re.IGNORECASE)

MOST_ELSEWHERE: Final = 5
"""Folders that are named."""

_FITS: Final = 0.1
"""The part of the best labels' shared ids that other labels must share to be named."""


@dataclass(frozen=True)
class _Layout:
    """Images, and what has the same ids.

    Attributes:
        labels: forms that can be decoded, the likeliest first.
        others: forms that cannot.
        elsewhere: folders that hold images and labels of the same forms, and that these templates do not name.
    """

    images: Form
    labels: list[Form]
    others: list[Form]
    elsewhere: list[str] = field(default_factory=list)


async def no_pairs_sentence(
    source: Source, templates: KeyTemplates, incomplete: Incomplete, on_page: Callable[[], None]
) -> str:
    """Return one sentence or more for the operator of a root without pairs; `on_page` is called now and then.

    Raises:
        SourceError: the root cannot be listed.
    """
    names: list[str] = []
    skipped = Skipped(templates.prefixes)
    async for page in source.list_pages("", skipped):
        names += [info.name for info in page]
        on_page()
        if len(names) >= LOOKED_AT:
            break
    return describe(source.root, names, templates, incomplete, skipped)


def describe(
    root: str, names: list[str], templates: KeyTemplates, incomplete: Incomplete, skipped: Skipped | None = None
) -> str:
    """Return the sentences for these names (relative to `root`). Pure."""
    left_out = _left_out(skipped)
    if not names:
        if left_out:
            return f"No pairs under {root}: there is nothing in it that can be served.{left_out}"
        return f"No pairs under {root}: there is nothing in it; check the path, upper and lower case included."
    forms = forms_of(names)
    layout = _best_layout(forms)
    if layout is not None and layout.labels:
        return f"No pairs under {root}: {_proposal(layout)}{_elsewhere(layout)}{_undecodable(layout)}{left_out}"
    if layout is not None:
        return f"No pairs under {root}: {_nothing_to_decode(layout)}{left_out}"
    looked_for = f"Looked for --images '{templates.images}' --labels '{templates.labels}'"
    halves = [
        f"{incomplete.images_without_label.count:,} images without a label",
        f"{incomplete.labels_without_image.count:,} labels without an image",
        f"{incomplete.unusable_ids.count:,} objects with an id that cannot be used",
    ]
    seen = ", ".join(half for half in halves if not half.startswith("0 "))
    found = seen or ", ".join(_objects(form) for form in _largest(forms))
    advice = "give templates under which both share their ids"
    return f"No pairs under {root}: found {found}. {looked_for}; {advice}.{left_out}"


def _proposal(layout: _Layout) -> str:
    images, (first, *more) = layout.images, layout.labels
    found = f"found {_objects(images)} and {first}"
    flags = f"pass --images '{images.template}' --labels '{first.template}'"
    if not more:
        return f"{found}; {flags}.{_parts(images)}"
    others = ", ".join(map(str, more))
    choices = ", or ".join(f"--labels '{form.template}'" for form in more)
    return f"{found}; other labels fit as well: {others}; {flags}, or {choices}.{_parts(images)}"


def _parts(images: Form) -> str:
    """What is said of images for training and others for validation that one template would serve together."""
    folders = {one.partition("/")[0] for one in images.ids if "/" in one}
    parts = sorted(folder for folder in folders if _PART.match(folder))
    if len(parts) < 2:
        return ""
    return f" That serves the folders {', '.join(parts)} together: to serve one alone, write it into both templates."


def _elsewhere(layout: _Layout) -> str:
    """What is said of further folders of such pairs, one of which may be the one that is meant."""
    if not layout.elsewhere:
        return ""
    named = ", ".join(f"{folder}/" for folder in layout.elsewhere[:MOST_ELSEWHERE])
    more = len(layout.elsewhere) - MOST_ELSEWHERE
    return f" Such pairs are also in {named}{f' and {more:,} more' if more > 0 else ''}: serve each folder by itself."


def _undecodable(layout: _Layout) -> str:
    if not layout.others:
        return ""
    return f" With the same ids, and not decodable (JPEG and PNG are): {', '.join(map(str, layout.others))}."


def _nothing_to_decode(layout: _Layout) -> str:
    """What is said where the forms that belong together are not all JPEG or PNG."""
    forms = [layout.images, *layout.others]
    bad = ", ".join(f"`{form.template.replace('{id}', '*')}`" for form in forms if not form.decodable)
    found = " and ".join([_objects(layout.images), ", ".join(map(str, layout.others))])
    return f"found {found}; {bad} cannot be decoded: store them as JPEG or PNG, labels as PNG."


def _left_out(skipped: Skipped | None) -> str:
    if skipped is None:
        return ""
    kinds = [kind for kind in sorted(skipped.names) if kind is not Kind.MARKER]
    told = [f"{kind}: {skipped.counts[kind]:,} ({', '.join(skipped.names[kind])})" for kind in kinds]
    return "".join(f" Skipped {one}." for one in told)


def _objects(form: Form) -> str:
    return str(form).replace(" like ", " objects like ", 1)


def _largest(forms: list[Form]) -> list[Form]:
    plain = [form for form in forms if not (form.head or form.tail)]
    folders = {(form.folder.count("/"), form.extension) for form in plain}
    depth = min((depth for depth, _ in folders if depth), default=0)
    return [form for form in plain if form.folder.count("/") == depth][:3]


def _best_layout(forms: list[Form]) -> _Layout | None:
    """The images and labels that have the most ids in common; first of all those that can be decoded."""
    likeness = Likeness(forms)
    whole = [form for form in forms if not form.head]  # without its head, an id is often a number, which proves little
    best = _best_pair(whole, likeness) or _best_pair(forms, likeness)
    if best is None:
        return None
    images, labels = best
    forms = [form for form in forms if bool(form.head) <= bool(images.head)]
    fitting = [form for form in forms if _fits(form, images, labels, likeness)]
    others = [form for form in fitting if not form.decodable]
    if not (images.decodable and labels.decodable):
        return _Layout(images, [], [labels, *(form for form in others if form is not labels)])
    sets = [form for form in fitting if form.decodable and form.label_score > images.label_score] or [labels]
    if any(form.extension != ".jpg" for form in sets):
        sets = [form for form in sets if form.extension != ".jpg"]
    few = 0.9 * likeness.shared(images, labels)
    sets.sort(key=lambda f: (likeness.shared(images, f) < few, -f.class_score, -len(f.ids), f.template))
    return _Layout(images, sets, others, _same_elsewhere(images, sets[0], forms))


def _same_elsewhere(images: Form, labels: Form, forms: list[Form]) -> list[str]:
    """The folders, as ``val`` where these two are below ``train``, in which there are images and labels as well."""
    there = {(form.folder, form.extension) for form in forms}
    found = set()
    for depth, (mine, theirs) in enumerate(zip(images.folders, labels.folders, strict=False)):
        if mine != theirs:
            break
        above, below = images.folders[:depth], images.folders[depth + 1 :]
        for form in forms:
            folders = form.folders
            if form.extension != images.extension or folders[:depth] != above or folders[depth + 1 :] != below:
                continue
            if len(folders) <= depth or folders[depth] == mine:
                continue
            beside = [*folders[: depth + 1], *labels.folders[depth + 1 :]]
            if ("".join(f"{folder}/" for folder in beside), labels.extension) in there:
                found.add("/".join(folders[: depth + 1]))
    return sorted(found)


def _fits(form: Form, images: Form, labels: Form, likeness: Likeness) -> bool:
    """Whether a form has the ids of the images, and is not the same labels of another part of the set.

    A part is a folder that images and labels have in common, such as ``val`` where theirs is ``train``.
    """
    if form is images or likeness.shared(images, form) <= _FITS * likeness.shared(images, labels):
        return False
    if form is labels:
        return True
    differing = {mine for mine, other in zip(labels.folders, form.folders, strict=False) if mine != other}
    return not (differing & set(images.folders))


def _may_be_a_pair(images: Form, labels: Form) -> bool:
    """Whether names and formats tell the sides apart; two folders of numbered photographs are not a pair."""
    if labels.extension == ".jpg":
        return labels.names_labels and images.label_score < labels.label_score
    return images.label_score < labels.label_score or images.extension != labels.extension or not images.decodable


def _best_pair(forms: list[Form], likeness: Likeness) -> tuple[Form, Form] | None:
    """Images and labels; of files that can be decoded, unless next to nothing of the set is."""
    pairs = []
    for one, other in combinations(forms, 2):
        shared = likeness.shared(one, other)
        images, labels = sorted((one, other), key=lambda form: (form.label_score, form.template))
        if shared and _may_be_a_pair(images, labels):
            pairs.append((shared, images, labels))
    most = max((shared for shared, _, _ in pairs), default=0)
    decodable = [pair for pair in pairs if pair[1].decodable and pair[2].decodable]
    if max((shared for shared, _, _ in decodable), default=0) >= _FITS * most:
        pairs = decodable
        most = max((shared for shared, _, _ in pairs), default=0)

    def rank(pair: tuple[int, Form, Form]) -> tuple[float, ...]:
        """What counts, the first thing most."""
        shared, images, labels = pair
        both = images, labels
        return (
            2 * shared >= most,
            images.label_score < labels.label_score,
            all(form.folder for form in both),
            shared,
            -sum(len(form.head) + len(form.tail) for form in both),
            shared / len(images.ids),
            -len(set(images.folders) ^ set(labels.folders)),
            labels.class_score,
            -sum(len(form.folders) for form in both),
        )

    best = max(pairs, key=rank, default=None)
    return best and (best[1], best[2])
