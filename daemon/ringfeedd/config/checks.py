"""Checks that involve several settings. Pure: each returns the setting to correct, and a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.config.listen import Listen
from ringfeedd.decode.spec import Fit, LabelMode
from ringfeedd.errors import ConfigError
from ringfeedd.nodes import choose_nodes


def conflicts(values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what contradicts: the settings concerned, the one to blame first, and a sentence.

    Args:
        values: the settings that are valid alone, defaults included; one that is not is missing.
        environ: of the daemon, in which ``auto`` numbers of a machine are looked up.
    """
    yield from _pads(values)
    if has(values, "http", "http_token_file"):
        yield from _page(values["http"], values["http_token_file"])
    try:
        if has(values, "images", "labels"):
            KeyTemplates.parse(values["images"], values["labels"])
    except ConfigError as error:
        yield ("images", "labels"), str(error)
    try:
        if has(values, "num_nodes", "node_rank"):
            choose_nodes(values["num_nodes"], values["node_rank"], environ)
    except ConfigError as error:
        yield ("num_nodes", "node_rank"), str(error)


def _pads(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    if (
        has(values, "label_pad", "label_mode")
        and values["label_pad"] > 255
        and values["label_mode"] is not LabelMode.GRAY16
    ):
        pad, mode = values["label_pad"], values["label_mode"]
        yield ("label_pad", "label_mode"), f"label_pad = {pad}: must be at most 255 with label_mode = {mode}"
    for name in ("image_pad", "label_pad"):
        if has(values, name, "fit") and values[name] and values["fit"] is not Fit.PAD:
            yield (
                (name, "fit"),
                f"{name} = {values[name]}: nothing is padded with fit = {values['fit']}; set fit = pad",
            )


def _page(http: str, token_file: str | None) -> Iterator[tuple[tuple[str, ...], str]]:
    listen = Listen.parse(http)
    if listen is not None and not listen.loopback and token_file is None:
        sentence = (
            f"http = {http}: other machines can reach this address; set http_token_file, a file with the token that "
            f"requests must send, or listen on 127.0.0.1"
        )
        yield ("http",), sentence


def has(values: Mapping[str, Any], *names: str) -> bool:
    """Return True if all these settings are valid alone."""
    return all(name in values for name in names)
