"""Key templates: how an object's name and a pair's id are made from each other."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ringfeedd.errors import ConfigError

DEFAULT_IMAGES = "images/{id}.jpg,jpeg"
DEFAULT_LABELS = "labels/{id}.png"

MAX_ID_BYTES = 1024
"""In UTF-8; the limit of GCS for a whole object name."""

_ID = "{id}"


class Match(msgspec.Struct, frozen=True, gc=False):
    """What a template saw in one object's name.

    Attributes:
        id: the part in place of ``{id}``.
        suffix: the part behind it, spelled as in the name: ``.JPG``.
        rank: the place of this extension in the template, from 0; of two objects with one id, the lower rank is taken.
    """

    id: str
    suffix: str
    rank: int


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """Names of the form ``PREFIX{id}SUFFIX.EXT1,EXT2``.

    - ``{id}`` stands exactly once; it matches one character or more, ``/`` and spaces included.
    - Behind the last dot, extensions are separated by commas, the preferred one first: ``images/{id}.jpg,jpeg``. This
      needs no quotes in a shell and is one string in TOML.
    - Extensions match in upper and lower case (``.JPG``); everything else exactly.
    - ``images/{id}`` without an extension matches every object below ``images/``.

    Attributes:
        text: as it was written.
        prefix: everything before ``{id}``: what is listed.
        suffixes: what may stand behind it, extensions in lower case, in order of preference.
    """

    text: str
    prefix: str
    suffixes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> KeyTemplate:
        """Read a template. Raises: `ConfigError`, with a sentence."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise ConfigError(f"The key template {shown} is not UTF-8; rename the folders that it names.") from error
        if text.count(_ID) != 1:
            raise ConfigError(f"The key template {text!r} must hold {{id}} exactly once, as in {DEFAULT_IMAGES!r}.")
        prefix, _, rest = text.partition(_ID)
        if prefix.startswith("/"):
            raise ConfigError(f"The key template {text!r} begins with a slash; names are relative to the root.")
        first, *others = rest.split(",")
        head, dot, extension = first.rpartition(".")
        if (not dot or "/" in extension) and not others:
            return cls(text, prefix, (rest,))
        # .jpg,jpeg is how we write it; .jpg,.jpeg is how it is meant when it is written so
        extensions = [extension, *(other.strip().removeprefix(".") for other in others)]
        if not dot or not all(extensions) or any("/" in one for one in extensions):
            raise ConfigError(f"The key template {text!r} has an empty or odd extension; write {DEFAULT_IMAGES!r}.")
        return cls(text, prefix, tuple(dict.fromkeys(f"{head}.{one.lower()}" for one in extensions)))

    @property
    def canonical(self) -> str:
        """The one spelling of all templates that match the same names; it is a template itself."""
        first, *others = self.suffixes
        return ",".join([f"{self.prefix}{_ID}{first}", *(suffix.rpartition(".")[2] for suffix in others)])

    def match(self, name: str) -> Match | None:
        """The id in an object's name; None where the name has another form."""
        if not name.startswith(self.prefix):
            return None
        for rank, suffix in enumerate(self.suffixes):
            end = len(name) - len(suffix)
            if end > len(self.prefix) and self._is_spelling(name[end:], suffix):
                return Match(name[len(self.prefix) : end], name[end:], rank)
        return None

    def name(self, pair_id: str, suffix: str) -> str:
        """The object's name again, from what `match` gave."""
        return f"{self.prefix}{pair_id}{suffix}"

    def __str__(self) -> str:
        return self.text

    @staticmethod
    def _is_spelling(found: str, suffix: str) -> bool:
        if found == suffix:
            return True
        dot = suffix.rfind(".")
        return dot >= 0 and found[: dot + 1] == suffix[: dot + 1] and found[dot + 1 :].lower() == suffix[dot + 1 :]


@dataclass(frozen=True, slots=True)
class KeyTemplates:
    """The two templates of a set of pairs."""

    images: KeyTemplate
    labels: KeyTemplate

    @classmethod
    def parse(cls, images: str = DEFAULT_IMAGES, labels: str = DEFAULT_LABELS) -> KeyTemplates:
        """Read both. Raises: `ConfigError`, with a sentence."""
        templates = cls(KeyTemplate.parse(images), KeyTemplate.parse(labels))
        if templates.images.prefix == templates.labels.prefix:
            both = set(templates.images.suffixes) & set(templates.labels.suffixes)
            if both:
                raise ConfigError(f"The key templates {images!r} and {labels!r} name the same objects ({both.pop()}).")
        return templates

    @property
    def prefixes(self) -> tuple[str, str]:
        """What the names of images begin with, and those of labels."""
        return (self.images.prefix, self.labels.prefix)

    @property
    def listed_prefixes(self) -> tuple[str, ...]:
        """What has to be listed: the two prefixes, or the one that holds the other."""
        images, labels = self.prefixes
        if images.startswith(labels):
            return (labels,)
        if labels.startswith(images):
            return (images,)
        return (images, labels)

    def match(self, name: str) -> tuple[Match | None, Match | None]:
        """What the name is as an image and as a label; never both.

        Where both forms fit (``{id}.png`` and ``{id}_mask.png``), the one with more literal characters is meant.
        """
        image, label = self.images.match(name), self.labels.match(name)
        if image is None or label is None:
            return image, label
        return (image, None) if len(image.id) < len(label.id) else (None, label)
