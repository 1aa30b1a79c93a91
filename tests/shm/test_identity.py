"""The settings that decide ids, pixels and order: one table, in the descriptor, compared everywhere."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ring_fixtures import (
    HEIGHT,
    WIDTH,
    make_descriptor,
    make_identity,
    served_ring,
    small_geometry,
    turning,
    unique_ring_name,
)

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.identity import SETTINGS, Decides, Identity
from ringfeedd.config import Config, load, resolve
from ringfeedd.config.settings import SETTINGS as KNOWN
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.supervisor.discovery import Discovery
from ringfeedd.supervisor.state import Surroundings

OTHER = {
    "root": "gs://bucket/other",
    "emulator": "http://127.0.0.1:9023",
    "images": "pictures/{id}.jpg",
    "labels": "depth/{id}.png",
    "fit": "crop",
    "size": "8x64",
    "label_mode": "index",
    "exif_orientation": True,
    "max_pixels": 999,
    "order": "shuffle",
    "seed": 1,
    "test_ratio": 0.5,
    "num_nodes": 3,
    "node_rank": 1,
    "image_pad": 127,
    "label_pad": 255,
}
"""For each setting, a value that `make_identity` does not have."""


def test_each_setting_is_the_daemons_and_is_described():
    assert set(SETTINGS) <= set(KNOWN)
    assert set(OTHER) == set(SETTINGS)
    settings = {"root": "gs://b/p/", "emulator": "localhost:1/", "size": "24x32", "seed": 5, "fit": "native"}
    settings |= {"images": "images/{id}.jpg,.jpeg", "num_nodes": 2, "node_rank": 1}
    identity = resolve(load(None, settings).config).identity()
    facts = json.loads(json.dumps(identity.to_json()))
    assert facts["root"] == "gs://b/p"
    assert facts["emulator"] == "http://localhost:1"
    assert facts["images"] == "images/{id}.jpg,jpeg"
    assert (facts["num_nodes"], facts["node_rank"]) == (2, 1)
    assert Identity.from_json(facts) == identity
    assert resolve(Config(root="/a")).identity(size="8x8").size == "8x8"
    assert resolve(Config(root="/a", emulator="localhost:1")).identity().emulator is None, "a folder is read without it"


def test_every_setting_of_decoding_is_among_them():
    rows = {"height", "width"}  # together, the size
    assert {field.name for field in dataclasses.fields(DecodeSpec)} - rows <= set(SETTINGS)


def test_a_later_releases_setting_is_compared_and_kept():
    facts = make_identity().to_json()
    later = Identity.from_json(facts | {"tint": "red"})
    assert later.to_json() == facts | {"tint": "red"}
    assert make_identity().differences_that_decide(later, Decides.PIXELS) == {"tint": (None, "red")}
    with pytest.raises(TypeError, match="tint is a setting that no release has"):
        Identity.from_json(facts | {"tint": ["red"]})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_type_is_not_believed(name):
    with pytest.raises((TypeError, ValueError)):
        Identity.from_json(make_identity().to_json() | {name: ["x"]})
    facts = make_identity().to_json()
    if name in facts:  # those of a later release may be missing
        del facts[name]
        with pytest.raises(TypeError, match=name):
            Identity.from_json(facts)


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**64}, {"num_nodes": 0}, {"num_nodes": 2, "node_rank": 2}])
def test_a_number_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="is out of its range"):
        Identity.from_json(make_identity().to_json() | bad)


def test_status_shows_every_setting():
    with served_ring() as served:
        assert ring_status(served.name).as_json()["identity"] == make_identity().settings()


@pytest.mark.parametrize("name", [name for name, what in SETTINGS.items() if what is not Decides.ORDER])
def test_a_living_reader_refuses_a_daemons_other_setting(name):
    ring = unique_ring_name()
    with served_ring(name=ring) as served, turning(served):
        reader = ringfeed.attach(ring, batch_size=4, restart_s=30)
        next(iter(reader))
    changed = {name: OTHER[name]} | ({"num_nodes": 3} if name == "node_rank" else {})
    sentence = rf"came back (with other pixels \({name}: |as node [01] of 3)"
    with served_ring(name=ring, **changed) as served, turning(served):
        with pytest.raises(ringfeed.StateMismatchError, match=sentence):
            for _ in range(20):
                for _ in reader:
                    pass
        reader.close()


def test_places_are_kept_for_the_same_settings_only():
    from ringfeedd.recovery.predecessor import read_predecessors  # noqa: PLC0415

    with served_ring() as served, turning(served), ringfeed.attach(served.name, batch_size=4) as reader:
        next(iter(reader))
        (former,) = read_predecessors(served.name)
        same = former.descriptor
        assert former.serves_the_same(replace(same, generation="0" * 16))
        for name, value in OTHER.items():
            assert not former.serves_the_same(replace(same, identity=replace(same.identity, **{name: value}))), name
        former.control.close()


def test_a_daemon_that_chooses_keeps_living_readers_size():
    config = resolve(
        Config(root="gs://bucket/prefix", size="auto", label_mode="gray16", max_pixels=1000, order="sequential")
    )
    discovery = Discovery(config, Surroundings(), None)
    descriptor = replace(make_descriptor("train", small_geometry()), identity=config.identity(size=f"{HEIGHT}x{WIDTH}"))
    former = SimpleNamespace(descriptor=descriptor)
    assert discovery._promised_size({"train": [], "test": [former]}) == (HEIGHT, WIDTH)
    former.descriptor = replace(descriptor, identity=replace(descriptor.identity, fit="crop"))
    assert discovery._promised_size({"train": [former]}) is None, "they are told so, and may as well have another size"
    assert discovery._promised_size({"train": []}) is None


def test_a_descriptor_without_its_identity_is_not_believed():
    facts = json.loads(make_descriptor("train", small_geometry()).to_json())
    for junk in (None, [], {}, "root"):
        with pytest.raises(ringfeed.NotTrustedError):
            Descriptor.from_json("train", json.dumps(facts | {"identity": junk}).encode())
