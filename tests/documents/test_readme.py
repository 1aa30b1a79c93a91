"""README's code is run as it stands, against a daemon of its own."""

import re
import uuid
from pathlib import Path

import pytest
from house import Daemon, finish, traces, trainer, write_folder

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("readme"), 24)


def test_every_python_block_is_run_here():
    assert README.count("```python") == len(BLOCKS) == 4


@pytest.mark.parametrize(
    ("block", "shown", "shape"),
    [
        ("torch", "image.shape[1:]", "(3, 32, 48)"),
        ("numpy", "batch.image.shape[1:]", "(32, 48, 3)"),
        ("segmentation", "(*image.shape[1:], *label.shape[1:])", "(3, 32, 48, 32, 48)"),
    ],
)
def test_a_block_runs_against_a_served_ring(folder, block, shown, shape):
    ring = f"t{uuid.uuid4().hex[:10]}"
    settings = ("--size", "32x48", "--slots", "16", "--label-mode", "index", "--test-ratio", "0.5")
    with Daemon(str(folder), *settings, ring=ring):
        code = BLOCKS[block].replace('"train"', f'"{ring}-train"').replace('"test"', f'"{ring}-test"')
        said = finish(trainer(f"{code}\nprint(tuple({shown}))"))
    assert said.strip() == shape


def test_the_snippets_users_change_one_import(folder):
    given = (
        "import sys, numpy as np, torch\n"
        "gcs_data_root = sys.argv[1]\n"
        "def transform(pair):\n"
        "    return tuple(torch.from_numpy(np.array(picture.resize((8, 8)))) for picture in pair)\n"
    )
    said = finish(trainer(f"{given}{BLOCKS['loaders']}\nprint(tuple(image.shape[1:]))", folder))
    assert said.strip() == "(8, 8, 3)"
    assert traces("auto-") == []


def test_every_file_that_the_readme_links_is_there():
    here = Path(__file__).parents[2]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (here / link).exists()] == []
