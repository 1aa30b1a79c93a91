"""The configuration: file and flags, flags win, and whatever cannot be meant is one sentence and exit code 78."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from ringfeedd.config import Config, load_config
from ringfeedd.decode.spec import Fit, LabelMode
from ringfeedd.errors import EXIT_BAD_CONFIG, ConfigError
from ringfeedd.order import Mode


@pytest.fixture
def written(tmp_path):
    def write(text: str):
        path = tmp_path / "ringfeed.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_gives_every_setting_by_its_name(written):
    path = written("""
        root = "gs://bucket/prefix"
        ring = "job"
        size = "224x256"
        slots = 64
        lanes = 8
        workers = 3
        concurrency = 32
        seed = 7
        order = "sequential"
        test_ratio = 0.25
        fit = "pad"
        image_pad = 127
        label_pad = 255
        label_mode = "index"
        exif_orientation = true
        max_pixels = 1000000
        max_failed = 0
        max_attempts = 3
        deadline_s = 60
        read_timeout_s = 5
        attempt_s = 30
        min_bytes_per_s = 1000
        store_wait_s = 30
        data_plane = "curl"
        emulator = "http://localhost:9023"
        user_project = "my-project"
        images = "i/{id}.jpg"
        labels = "l/{id}.png"
        linger_s = 60
        linger_blocking_s = 2.5
    """)
    config = load_config(path, {})
    assert config == Config(
        root="gs://bucket/prefix",
        ring="job",
        size="224x256",
        slots=64,
        lanes=8,
        workers=3,
        concurrency=32,
        seed=7,
        order=Mode.SEQUENTIAL,
        test_ratio=0.25,
        fit=Fit.PAD,
        image_pad=127,
        label_pad=255,
        label_mode=LabelMode.INDEX,
        exif_orientation=True,
        max_pixels=1_000_000,
        max_failed=0.0,
        max_attempts=3,
        deadline_s=60.0,
        read_timeout_s=5.0,
        attempt_s=30.0,
        min_bytes_per_s=1000.0,
        store_wait_s=30.0,
        data_plane="curl",
        emulator="http://localhost:9023",
        user_project="my-project",
        images="i/{id}.jpg",
        labels="l/{id}.png",
        linger_s=60.0,
        linger_blocking_s=2.5,
    )
    assert config.pixels == (224, 256)
    assert config.ring_names == {"train": "job-train", "test": "job-test"}


def test_flags_win_over_the_file(written):
    path = written('root = "there"\nslots = 64\nseed = 1\n')
    config = load_config(path, {"root": "/here", "slots": 32})
    assert (config.root, config.slots, config.seed) == ("/here", 32, 1)


def test_a_root_alone_is_enough():
    config = load_config(None, {"root": "folder"})
    assert config.ring_names == {"train": "train", "test": "test"}
    assert (config.pixels, config.slots, config.workers) == (None, None, "auto")
    assert (config.access().mode, config.access().gid) == (0o600, -1)


BAD = {
    'rot = "gs://b"': "unrecognized setting rot; is root meant?",
    "seed = 1": "no root is given",
    'root = "b"\nslot = 5': "unrecognized setting slot; is slots meant?",
    'root = ""': "root is empty",
    "root = 5": "root = 5: must be a text",
    'root = "b"\nslots = 1': "slots = 1: must be at least 2",
    'root = "b"\nslots = "many"': "must be a whole number",
    'root = "b"\nslots = true': "must be a whole number",
    'root = "b"\nlanes = 1025': "must be at most 1024",
    'root = "b"\nworkers = 0': "must be at least 1",
    'root = "b"\nconcurrency = 0': "must be at least 1",
    'root = "b"\nseed = -1': "must be at least 0",
    'root = "b"\nseed = 18446744073709551616': "seed",
    'root = "b"\norder = "backwards"': "backwards",
    'root = "b"\nfit = "squeeze"': "squeeze",
    'root = "b"\nlabel_mode = "cmyk"': "cmyk",
    'root = "b"\ntest_ratio = 1.0': "must be less than 1",
    'root = "b"\ntest_ratio = nan': "test_ratio",
    'root = "b"\nmax_failed = 1.5': "must be at most 1",
    'root = "b"\nmax_failed = nan': "max_failed",
    'root = "b"\nlabel_pad = 255': "label_pad 255: nothing is padded with fit = resize",
    'root = "b"\nfit = "native"\nimage_pad = 1': "image_pad 1: nothing is padded with fit = native",
    'root = "b"\nfit = "pad"\nlabel_pad = 256': "label_pad 256: must be at most 255 with label_mode = rgb",
    'root = "b"\nfit = "pad"\nimage_pad = 256': "image_pad",
    'root = "b"\nuser_project = "a&b"': "user_project",
    'root = "b"\nlinger_s = -1': "must be at least 0",
    'root = "b"\nlinger_s = inf': "linger_s",
    'root = "b"\nlinger_blocking_s = nan': "linger_blocking_s",
    'root = "b"\nsize = "big"': "'big' is not HEIGHTxWIDTH",
    'root = "b"\nsize = "0x5"': "'0x5' is not HEIGHTxWIDTH",
    'root = "b"\nsize = "5"': "'5' is not HEIGHTxWIDTH",
    'root = "b"\nring = "a/b"': "'a/b' cannot be a ring's name",
    'root = "b"\nring = "' + 60 * "x" + '"': "cannot be a ring's name",
    'root = "b"\nimages = "no-id.jpg"': "no-id.jpg",
    "root = ": "is not TOML",
    'root = "b"\nroot = "c"': "is not TOML",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_meant_is_one_sentence_that_names_file_and_fault(written, text):
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    sentence = str(caught.value)
    assert BAD[text] in sentence
    assert "\n" not in sentence
    assert caught.value.exit_code == EXIT_BAD_CONFIG


def test_a_bad_flag_is_not_blamed_on_the_file(written):
    with pytest.raises(ConfigError) as caught:
        load_config(written('root = "b"\n'), {"slots": 0})
    assert str(caught.value) == "--slots 0: must be at least 2"


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"could not read the configuration .*nowhere\.toml: No such file"):
        load_config(tmp_path / "nowhere.toml", {"root": "b"})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml is not TOML"):
        load_config(tmp_path / "binary.toml", {"root": "b"})


@pytest.mark.parametrize("endless", ["/dev/zero", "/dev/urandom"])
def test_a_configuration_without_end_is_refused(endless):
    with pytest.raises(ConfigError, match=f"{endless} is larger than a configuration can be, 1048576 bytes"):
        load_config(Path(endless), {"root": "b"})


def test_a_configured_group_may_attach_and_an_unknown_one_is_named():
    name = grp.getgrgid(os.getgid()).gr_name
    access = load_config(None, {"root": "b", "group": name}).access()
    assert (access.mode, access.gid) == (0o660, os.getgid())
    with pytest.raises(ConfigError, match="no such unix group"):
        load_config(None, {"root": "b", "group": "nobody-has-this-group"}).access()


def test_the_largest_seed_is_a_seed(written):
    assert load_config(written(f'root = "b"\nseed = {2**64 - 1}\n'), {}).seed == 2**64 - 1


def test_workers_share_the_rate_of_a_bucket_and_a_folder_has_none():
    policy = Config(root="/folder", max_attempts=3, deadline_s=60.0, attempt_s=5.0).fetch_policy()
    assert (policy.max_attempts, policy.deadline_s, policy.attempt_s) == (3, 60.0, 5.0)
