"""The blocks of docs/trainers.md, each run as it stands, against a daemon of its own."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path

import pytest
from house import Daemon, traces, write_folder

import ringfeed

pytestmark = pytest.mark.timeout(400)  # frameworks take long to import on a machine that is busy

PAGE = (Path(__file__).parents[2] / "docs/trainers.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))
ASIDE = Path(sysconfig.get_paths()["purelib"]).parents[2] / "aside"
PAIRS = 36
STEPS = 6
"""Batches of 4 in an epoch of one rank; some more pairs are left."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


@pytest.fixture(scope="module")
def rings(folder):
    name = f"t{uuid.uuid4().hex[:10]}"
    arguments = ("--size", "24x32", "--label-mode", "index", "--slots", "64", "--linger-blocking-s", "0.2")
    with Daemon(str(folder), *arguments, "--test-ratio", "0.45", ring=name):
        with ringfeed.attach(f"{name}-train", batch_size=4) as reader:
            assert len(reader) == STEPS
        yield name


@pytest.fixture
def run(rings, tmp_path):
    """Runs a block as a script, and then some more of the test's in it; returns what it printed."""
    (tmp_path / "mymodel.py").write_text(BLOCKS["mymodel"])

    def run(block, then="", *, before="", ranks=1, needs=(), **changes):
        for module in needs:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"{module} is not installed; scripts/test --all does that")
        code = before + BLOCKS[block] + then
        for split in ("train", "test"):
            code = code.replace(f'("{split}"', f'("{rings}-{split}"')
        for old, new in changes.items():
            assert old in code
            code = code.replace(old, new)
        script = tmp_path / f"train_{block}.py"
        script.write_text(code)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        quiet = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, *(launcher if ranks > 1 else []), str(script)],
            cwd=tmp_path,
            env={**os.environ, **quiet, "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=350,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_every_block_of_python_is_run_here():
    assert PAGE.count("```python") == len(BLOCKS)
    own = Path(__file__).read_text()
    for block, code in BLOCKS.items():
        assert f'"{block}"' in own, block
        ast.parse(code)


def test_pytorch(run):
    then = "print(train.state_dict()['epoch'], train.state_dict()['position'])\n"
    said = run("pytorch", then)
    assert [line.split(":")[0] for line in said.splitlines()] == ["epoch 0", "epoch 1", "epoch 2", "3 0"]
    assert all(0 <= float(line.split()[2].rstrip("%")) <= 100 for line in said.splitlines()[:3])
    assert run("pytorch", then).splitlines() == ["3 0"]  # it resumes, and nothing is left to do


@pytest.mark.slow
def test_torchrun(run):
    said = run("torchrun", f"assert len(train) == {STEPS // 2}\n", ranks=2)
    assert [line.split(":")[0] for line in said.splitlines()] == ["epoch 0", "epoch 1"]


QUIET = {'devices="auto"': 'devices=1, accelerator="cpu", logger=False, enable_progress_bar=False'}


@pytest.mark.slow
def test_lightning_goes_on_in_mid_epoch(run):
    steps = "\n    print(f'steps {trainer.global_step}\\n', end='')\n"
    assert "steps 4" in run("lightning", steps, needs=["lightning"], **{**QUIET, "max_epochs=2": "max_steps=4"})
    assert f"steps {2 * STEPS}" in run("lightning", steps, **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["lightning", "lightning_main"])
def test_lightnings_own_launcher(run, block):
    changes = {old: new.replace("devices=1", "devices=2") for old, new in QUIET.items()}
    said = run(block, "\n    print(f'steps {trainer.global_step}\\n', end='')\n", needs=["lightning"], **changes)
    assert said.count(f"steps {STEPS}") == 2  # half of them each, in two epochs


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("block", ["accelerate", "accelerate_prepared"])
def test_accelerate(run, block, ranks):
    steps = STEPS // ranks
    then = "print(f'rest {rest}')\n" if block == "accelerate_prepared" else ""
    if ranks == 2:
        then += f"assert len(train) == {steps}\n"
    said = run(block, then, ranks=ranks, needs=["accelerate"])
    # three batches were taken when the state was saved, save that two ranks' epochs are over with the third
    assert said.count(f"rest {STEPS - 3 if ranks == 1 else steps}") == (ranks if then.startswith("print") else 0)


@pytest.mark.slow
def test_transformers_goes_on_in_mid_epoch(run):
    changes = {'"runs",': '"runs", report_to="none", disable_tqdm=True, use_cpu=True,'}
    steps = "print('steps', trainer.state.global_step, train.state_dict()['epoch'])\n"
    first = run("transformers", steps, needs=["transformers"], **{**changes, "num_train_epochs=2": "max_steps=3"})
    assert "steps 3 0" in first
    assert f"steps {2 * STEPS} 2" in run("transformers", steps, **changes)


@pytest.mark.slow
def test_torchdata(run):
    pytest.importorskip("torchdata")
    assert run("torchdata", "print(step, rest)\n") == f"2 {STEPS - 3}\n"  # of four rounds of two workers, all are full


@pytest.mark.slow
def test_jax(run):
    assert run("jax", "print(epoch, float(loss) > 0)\n", needs=["jax"]) == "1 True\n"


def test_a_sweeps_job_begins_with_a_whole_epoch(run, rings):
    with ringfeed.attach(f"{rings}-train", batch_size=4) as other:
        batches = iter(other)
        for _ in range(2):
            next(batches)
        said = run("sweep", "print(train.state_dict()['epoch'])\n", **{"range(2)": "range(1)"})
    assert said == "2\n"


def test_a_notebook(run, rings):
    """Its cells, one by one, in IPython; some of them twice, and one with an error in its loop."""
    cells = repr([cell for cell in BLOCKS["notebook"].split("# %%\n") if cell.strip()])
    then = f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
cells = [cell.replace('"train"', '"{rings}-train"') for cell in {cells}]
for cell in [*cells[:3], cells[1], cells[2], "for image, label in train: raise ValueError", *cells[3:]]:
    result = shell.run_cell(cell, store_history=True)
    assert result.success or "raise" in cell, result
image = shell.user_ns["image"]
assert len(image) == 4
image.add_(1)  # a copy
assert shell.user_ns["train"].dataset.on_lag == "yield"
print("all cells")
"""
    script = "import sys\n" + then
    BLOCKS["notebook_in_ipython"] = script
    try:
        assert run("notebook_in_ipython", needs=["IPython"]).splitlines()[-1] == "all cells"
    finally:
        del BLOCKS["notebook_in_ipython"]


TORCHVISION = f"""
import sys, torch
sys.path.append({str(ASIDE)!r})
operators = torch.library.Library("torchvision", "DEF")  # those whose absence torchvision does not survive
for name in ("nms", "qnms"):
    operators.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


@pytest.mark.slow
def test_augmentation_hits_image_and_mask_alike(run):
    """torchvision's operators are missing here, since they want CUDA's torch; the transforms need none of them."""
    if not ASIDE.is_dir():
        pytest.skip("torchvision is not installed; scripts/test --all does that")
    then = """
image, label = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8).expand(3, 8, 8), torch.arange(64).reshape(8, 8)
flip = v2.RandomHorizontalFlip(1.0)
assert torch.equal(*(t.long() for t in (lambda pair: (pair[0][0], pair[1]))(flip(
    tv_tensors.Image(image), tv_tensors.Mask(label)))))
plain_image, plain_label = flip(image, label)
assert torch.equal(plain_label, label) and not torch.equal(plain_image, image)  # the trap
print(tuple(train.dataset.transform((image, label))[1].shape))
"""
    assert run("augmentation", then, before=TORCHVISION) == "(24, 24)\n"


def test_the_snippet_changes_one_import(run, tmp_path):
    before = (
        "import numpy as np, torch\n"
        f"gcs_data_root = {str(write_folder(tmp_path / 'set', 16))!r}\n"
        "def transform(pair):\n"
        "    return tuple(torch.from_numpy(np.array(picture.resize((8, 8)))) for picture in pair)\n"
    )
    assert run("snippet", "print(tuple(image.shape[1:]))\n", before=before).strip() == "(8, 8, 3)"
    assert traces("auto-") == []
