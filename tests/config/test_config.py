"""The configuration: one table, four sources, all errors at once, each a sentence with its place; exit code 78."""

from __future__ import annotations

import grp
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringfeedd.cli.main import main
from ringfeedd.config import Config, config_of, load, resolve, shown
from ringfeedd.config.kinds import Size
from ringfeedd.config.load import unknown_variables
from ringfeedd.config.reload import Changes
from ringfeedd.config.settings import SETTINGS
from ringfeedd.config.units import parse_size
from ringfeedd.decode.spec import Fit, LabelMode
from ringfeedd.errors import EXIT_BAD_CONFIG, ConfigError
from ringfeedd.order import Mode

REPOSITORY = Path(__file__).parents[2]


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
        transport = "curl"
        emulator = "http://localhost:9023"
        user_project = "my-project"
        images = "i/{id}.jpg"
        labels = "l/{id}.png"
        linger_s = 60
        linger_blocking_s = 2.5
    """)
    config = load(path, {}).config
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
        transport="curl",
        emulator="http://localhost:9023",
        user_project="my-project",
        images="i/{id}.jpg",
        labels="l/{id}.png",
        linger_s=60.0,
        linger_blocking_s=2.5,
    )
    settings = resolve(config)
    assert settings.pixels == (224, 256)
    assert settings.ring_names == {"train": "job-train", "test": "job-test"}


def test_flags_win_over_the_file(written):
    path = written('root = "there"\nslots = 64\nseed = 1\n')
    config = load(path, {"root": "/here", "slots": 32}).config
    assert (config.root, config.slots, config.seed) == ("/here", 32, 1)


def test_a_root_alone_is_enough():
    settings = resolve(load(None, {"root": "folder"}).config)
    assert settings.ring_names == {"train": "train", "test": "test"}
    assert (settings.pixels, settings.config.slots, settings.config.workers) == (None, None, "auto")
    assert (settings.access().mode, settings.access().gid) == (0o600, -1)


BAD = {
    'rot = "gs://b"': "1: unrecognized setting rot; did you mean root?",
    "seed = 1": "no root is given",
    'root = "b"\nslot = 5': "2: unrecognized setting slot; did you mean slots?",
    'root = "b"\ntest-ratio = 0': "2: unrecognized setting test-ratio; did you mean test_ratio?",
    'root = "b"\ndata_plane = "curl"': "2: unrecognized setting data_plane; it is now called transport",
    'root = "b"\n[workers]\nseed = 5': "3: workers is not a table; write workers = VALUE",
    'root = "b"\n[work]\nseed = 5': "3: unrecognized setting work.seed; did you mean seed? Write it above",
    'root = ""': "root is empty",
    "root = 5": '1: root = 5: must be a text, e.g. "gs://bucket/prefix" or a folder',
    'root = ["b"]': "1: root = [...]: must be a text",
    'root = "b"\nslots = 1': "2: slots = 1: must be at least 2",
    'root = "b"\nslots = "many"': "must be a whole number",
    'root = "b"\nslots = true': "must be a whole number",
    'root = "b"\nslots = "4"': 'slots = "4": must be a whole number',
    'root = "b"\nlanes = 1025': "must be at most 1024",
    'root = "b"\nworkers = 0': "must be at least 1",
    'root = "b"\nconcurrency = 0': "must be at least 1",
    'root = "b"\nseed = -1': "must be at least 0",
    'root = "b"\nseed = 18446744073709551616': "seed",
    'root = "b"\norder = "backwards"': "backwards",
    'root = "b"\nfit = "crup"': 'fit = "crup": must be one of resize, crop, pad, native; did you mean crop?',
    'root = "b"\nlabel_mode = "cmyk"': "cmyk",
    'root = "b"\ntest_ratio = 1.0': "must be less than 1",
    'root = "b"\ntest_ratio = nan': "test_ratio",
    'root = "b"\nmax_failed = 1.5': "must be at most 1",
    'root = "b"\nmax_failed = nan': "max_failed",
    'root = "b"\nlabel_pad = 255': "2: label_pad = 255: nothing is padded with fit = resize",
    'root = "b"\nfit = "native"\nimage_pad = 1': "3: image_pad = 1: nothing is padded with fit = native",
    'root = "b"\nfit = "pad"\nlabel_pad = 256': "3: label_pad = 256: must be at most 255 with label_mode = rgb",
    'root = "b"\nfit = "pad"\nimage_pad = 256': "image_pad",
    'root = "b"\nuser_project = "a&b"': "user_project",
    'root = "b"\nlinger_s = -1': "must be at least 0",
    'root = "b"\nlinger_s = inf': "linger_s",
    'root = "b"\nlinger_s = "5 parsecs"': 'linger_s = "5 parsecs": must be a duration: seconds, or a text like "30s"',
    'root = "b"\nlinger_blocking_s = nan': "linger_blocking_s",
    'root = "b"\nsize = "big"': "'big' is not HEIGHTxWIDTH",
    'root = "b"\nsize = "0x5"': "'0x5' is not HEIGHTxWIDTH",
    'root = "b"\nsize = "5"': "'5' is not HEIGHTxWIDTH",
    'root = "b"\nring = "a/b"': "'a/b' cannot be a ring's name",
    'root = "b"\nring = "' + 60 * "x" + '"': "cannot be a ring's name",
    'root = "b"\nimages = "no-id.jpg"': "no-id.jpg",
    'root = "b"\nlabels = "images/{id}.jpg"': "name the same objects",
    'root = "b"\nnum_nodes = 2': "2: num_nodes = 2 and node_rank = none",
    'root = "b"\nhttp = "0.0.0.0:80"': "2: http = 0.0.0.0:80: other machines can reach this address",
    "root = ": "1: root has no value",
    "root = gs://bucket": '1: root = gs://bucket: a text needs quotes: root = "gs://bucket"',
    'root = "b"\nexif_orientation = True': "2: exif_orientation = True: write true or false in small letters",
    'root = "b': '1: root = "b: the text has no closing quote',
    'root = "b"\nslots 5': "2: slots 5 is not a line of the form NAME = VALUE",
    'root = "b"\nroot = "c"': "2: root is set twice, first in line 1; keep one of the lines",
    'root = "b"\nimages = """x': '2: a text, list or table begins here and does not end: images = """x',
    'root = "b"\nslots = [1,\n2\n': "2: a text, list or table begins here and does not end: slots = [1,",
    'root = "b"\n[a]\n[a]': ":3: [a] stands in the file twice",
}
"""Files with one fault each, and what is said of it, after the file's name."""


@pytest.mark.parametrize("text", BAD)
def test_a_fault_is_one_sentence_with_its_line(written, text):
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    sentence = str(caught.value)
    assert BAD[text] in sentence
    if BAD[text][0].isdigit():
        assert sentence.startswith(f"{path}:{BAD[text]}")
    assert len(caught.value.sentences) == (2 if text.endswith("[a]") else 1), sentence
    assert caught.value.exit_code == EXIT_BAD_CONFIG


def test_all_errors_of_all_sources_are_reported_together(written):
    """Values, unknown names, syntax, contradictions, variables and flags, in the order of their places."""
    path = written("""# of a tired person
root = gs://bucket/prefix
slots = 1
slot = 5
workers = "many"
label_pad = 300
deadline_s = "2 fortnights"
exif_orientation = Yes
this line is no setting
""")
    with pytest.raises(ConfigError) as caught:
        load(path, {"lanes": "0", "seed": "-1"}, {"RINGFEED_MAX_FAILED": "2"})
    said = [sentence.removeprefix(f"{path}:") for sentence in caught.value.sentences]
    assert [sentence.partition(":")[0] for sentence in said] == [
        *("2", "3", "4", "5", "6", "6", "7", "8", "9"),
        *("RINGFEED_MAX_FAILED=2", "--lanes 0", "--seed -1"),
    ]


def test_every_line_broken_gives_every_line(written):
    """Twenty settings, each wrong in its own way: twenty sentences and no parser's words."""
    lines = [text.partition("\n")[2] for text in BAD if text.startswith('root = "b"\n') and text.count("\n") == 1]
    lines = [
        line
        for line in lines
        if '"""' not in line and not line.startswith(("label_pad", "root", "num_nodes", "labels"))
    ]
    path = written('root = "b"\n' + "\n".join(f"{line}" for line in lines))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    at = [int(re.match(rf"{re.escape(str(path))}:(\d+): ", sentence)[1]) for sentence in caught.value.sentences]
    assert len(lines) >= 20
    assert set(at) == set(range(2, len(lines) + 2))
    assert not any(word in str(caught.value) for word in ("column", "Expected `", "$.", "msgspec"))


def test_units_are_read_and_plain_numbers_stay(written):
    path = written("""root = "b"
linger_s = "1h 30min"
deadline_s = "90s"
attempt_s = 30
linger_blocking_s = "1500ms"
min_bytes_per_s = "2 KiB"
""")
    config = load(path, {"read_timeout_s": "0.5 min"}, {"RINGFEED_WORKER_TIMEOUT_S": "2m"}).config
    assert (config.linger_s, config.deadline_s, config.attempt_s, config.linger_blocking_s) == (5400, 90, 30, 1.5)
    assert (config.min_bytes_per_s, config.read_timeout_s, config.worker_timeout_s) == (2048, 30, 120)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8 GiB", 8 << 30),
        ("500MB", 500_000_000),
        ("1.5k", 1536),
        ("7 b", 7),
        ("2 KiB/s", 2048),
        ("8", None),
        ("8 X", None),
    ],
)
def test_a_size_has_its_unit(text, size):
    assert parse_size(text) == size


def test_sizes_are_bytes_or_texts():
    kind = Size(least=1024)
    assert [kind.read(value, from_text=False) for value in (2048, "8 GiB", "4096")] == [2048, 8 << 30, 4096]
    for value in ("many", 5, True, "8 lightyears"):
        with pytest.raises(ValueError, match=r"must be (a size|at least)"):
            kind.read(value, from_text=False)


def test_flags_variables_file_and_defaults_win_in_order(written):
    path = written('root = "b"\nslots = 4\nseed = 1\nlanes = 3\n')
    loaded = load(path, {"seed": "3"}, {"RINGFEED_SEED": "2", "RINGFEED_LANES": "5", "RINGFEED_ORDER": ""})
    config = loaded.config
    assert (config.seed, config.lanes, config.slots, config.order) == (3, 5, 4, Mode.SHUFFLE)
    origins = [loaded.origin(name) for name in ("seed", "lanes", "slots", "order")]
    assert origins == ["--seed", "RINGFEED_LANES", f"{path}:2", "default"]


def test_an_overridden_value_is_checked_too(written):
    """Else a file would be valid only as long as a flag hides its fault."""
    with pytest.raises(ConfigError, match="slots = 1: must be at least 2"):
        load(written('root = "b"\nslots = 1\n'), {"slots": 8})


def test_an_unknown_variable_is_a_warning():
    environ = dict.fromkeys(
        ["RINGFEED_SLOT", "RINGFEED_TRUSTED_USERS", "RINGFEED_FUZZ_MINUTES", "RINGFEED_CONFIG"], "1"
    )
    environ |= dict.fromkeys(
        ["RINGFEED_PORT_9753_TCP_ADDR", "RINGFEED_SERVICE_HOST", "RINGFEED_HTTP_SERVICE_PORT"], "1"
    )
    assert unknown_variables(environ) == [
        "the environment variable RINGFEED_SLOT is not a setting, and is ignored; did you mean RINGFEED_SLOTS?"
    ]
    assert unknown_variables({"RINGFEED_DATA_PLANE": "curl"})[0].endswith("; it is now called RINGFEED_TRANSPORT")


def test_a_switch_can_be_turned_off_again(written):
    path = written('root = "b"\nexif_orientation = true\n')
    assert load(path, {}).config.exif_orientation is True
    assert load(path, {}, {"RINGFEED_EXIF_ORIENTATION": "no"}).config.exif_orientation is False
    assert load(path, {"exif_orientation": False}).config.exif_orientation is False


def test_a_program_s_settings_are_checked_like_flags():
    assert config_of({"root": "b", "linger_s": "2 min"}, "here", {"RINGFEED_LANES": "5"}).lanes == 5
    with pytest.raises(ConfigError) as caught:
        config_of({"root": "b", "slots": 1, "lans": 4}, "here", {})
    assert caught.value.sentences == (
        "here: slots = 1: must be at least 2",
        "here: unrecognized setting lans; did you mean lanes?",
    ) or set(caught.value.sentences) == {
        "here: slots = 1: must be at least 2",
        "here: unrecognized setting lans; did you mean lanes?",
    }


# What comes from the table.


def test_the_reference_is_the_committed_page():
    assert (REPOSITORY / "docs/settings.md").read_text() == shown.reference(), "run: ringfeed config reference"


def test_the_example_names_every_setting_and_loads(written):
    """As it is printed, it sets the root alone; with its comments removed, every setting, each to its default."""
    text = shown.example()
    assert load(written(text), {}).config == Config(root="gs://my-bucket/prefix")
    complete = re.sub(r"^# (?=[\w.]+ = |\[)", "", text, flags=re.MULTILINE)
    loaded = load(written(complete), {})
    assert set(loaded.origins) == set(SETTINGS)
    differing = {
        name for name, one in SETTINGS.items() if not one.required and getattr(loaded.config, name) != one.default
    }
    assert differing == {name for name, one in SETTINGS.items() if one.default is None}


def test_each_setting_says_what_it_is():
    for one in SETTINGS.values():
        assert one.help, one
        assert one.help[-1] != ".", one
        assert one.default is not None or one.unset, one
        assert one.required or one.default is None or one.kind.read(one.default, from_text=False) == one.default


def test_config_check_shows_all_errors(written, capsys):
    path = written('root = "b"\nslots = 1\nfit = 3\n')
    assert main(["config", "check", str(path)]) == EXIT_BAD_CONFIG
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{path}:2: slots = 1: must be at least 2",
        f"{path}:3: fit = 3: must be one of resize, crop, pad, native",
        f"{path}: 2 errors",
    ]
    assert main(["config", "check", str(written('root = "b"\n'))]) == 0
    assert capsys.readouterr().out == f"{path}: valid, 1 setting given\n"


def test_config_show_tells_values_and_origins(written, capsys, monkeypatch):
    path = written('root = "/b"\nslots = 64\n')
    monkeypatch.setenv("RINGFEED_LANES", "5")
    assert main(["config", "show", "--config", str(path), "--seed", "7"]) == 0
    said = capsys.readouterr().out
    for name, value, origin in [
        *(("slots", "64", f"{path}:2"), ("lanes", "5", "RINGFEED_LANES"), ("seed", "7", "--seed")),
        ("fit", '"resize"', "default"),
    ]:
        assert re.search(rf"^{name} += {value} +# {re.escape(origin)}$", said, re.MULTILINE), said
    assert main(["config", "show", "--config", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slots"] == {"value": 64, "origin": f"{path}:2"}
    assert main(["config", "show", "--example"]) == main(["config", "example"]) == 0
    assert capsys.readouterr().out == 2 * shown.example()


def test_a_reload_tells_what_changes_now_and_later():
    running, read = Config(root="b"), Config(root="b", linger_s=60.0, slots=8, log_level="debug")
    changes = Changes.between(running, read)
    assert changes.applied(running) == Config(root="b", linger_s=60.0, log_level="debug")
    assert changes.sentence() == 'changed linger_s = 60.0, log_level = "debug"; after a restart only: slots = 8'
    assert Changes.between(running, running).sentence() == "no setting has changed"


def test_a_file_is_not_blamed_for_a_flag(written):
    with pytest.raises(ConfigError) as caught:
        load(written('root = "b"\n'), {"slots": 0})
    assert str(caught.value) == "--slots 0: must be at least 2"


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"could not read the configuration .*nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", {"root": "b"})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml:1: this line is not UTF-8 text"):
        load(tmp_path / "binary.toml", {"root": "b"})


@pytest.mark.parametrize("endless", ["/dev/zero", "/dev/urandom"])
def test_a_configuration_without_end_is_refused(endless):
    with pytest.raises(ConfigError, match=f"{endless} is larger than a configuration can be, 131072 bytes"):
        load(Path(endless), {"root": "b"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("root = " + "[" * 4000 + "]" * 4000, "1: this line is longer than 4096 characters: root = [[["),
        ("root = " + "[" * 2000 + "]" * 2000, "1: lists and tables lie too deep in each other: root = [[["),
        ("root = " + "{a=" * 1000, "1: lists and tables lie too deep in each other: root = {a={a="),
        ("root = [\n" + "[\n" * 5000, "lists and tables lie too deep in each other: ["),
        (
            "\n".join("a." * 2000 + f"b{number} = 1" for number in range(30)),
            "1: unrecognized setting a.a.a.a.a.a.a",
        ),
        ("\n".join("[" + "a." * 2000 + f"b{number}]" for number in range(30)), "1: unrecognized setting a.a.a.a.a.a.a"),
        ('root = """\n' + "seed = 1\n" * 12_000, '1: a text, list or table begins here and does not end: root = """'),
        ("slots = 0x" + "f" * 4000, "1: slots = 0xfff"),
        ("order = 0x" + "f" * 4000, "1: order = 0xfff"),
        ("ring = 0x" + "f" * 4000, "1: ring = 0xfff"),
        ("test_ratio = " + "9" * 4000, "1: test_ratio = 0x"),
        ("min_bytes_per_s = " + "9" * 4000, "must be at most"),
        ('max_pixels = "' + "9" * 400 + '"', "must be a whole number"),
        ('cache.memory = "' + "9" * 400 + ' GiB"', "cache.memory = "),
        ('min_bytes_per_s = "' + "9" * 400 + ' GiB"', "must be a rate"),
    ],
    ids=range(15),
)
def test_a_hostile_file_is_a_sentence(written, text, sentence):
    with pytest.raises(ConfigError) as caught:
        load(written(text), {})
    assert sentence in str(caught.value)


def test_a_pipe_is_a_configuration_without_waiting(tmp_path):
    """What is being written is read to its end; nothing is read where no process writes."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no root is given"):
        load(tmp_path / "pipe", {})
    read_end, write_end = os.pipe()
    with os.fdopen(read_end), os.fdopen(write_end, "wb", buffering=0) as writer:
        writer.write(b'root = "b"\n')
        loading = ThreadPoolExecutor(1).submit(load, Path(f"/dev/fd/{read_end}"), {})
        writer.write(b"seed = 5")
        writer.close()
        assert loading.result(60).config.seed == 5


def test_a_configured_group_may_attach_or_is_unknown():
    """An unknown group is named in an error."""
    name = grp.getgrgid(os.getgid()).gr_name
    access = resolve(load(None, {"root": "b", "group": name}).config).access()
    assert (access.mode, access.gid) == (0o660, os.getgid())
    with pytest.raises(ConfigError, match="no such unix group"):
        resolve(load(None, {"root": "b", "group": "nobody-has-this-group"}).config).access()


def test_the_largest_seed_is_a_seed(written):
    assert load(written(f'root = "b"\nseed = {2**64 - 1}\n'), {}).config.seed == 2**64 - 1


def test_workers_share_a_buckets_rate():
    """A folder has none."""
    policy = resolve(Config(root="/folder", max_attempts=3, deadline_s=60.0, attempt_s=5.0)).policy
    assert (policy.max_attempts, policy.deadline_s, policy.attempt_s) == (3, 60.0, 5.0)
