"""docs/deploy: manifests fit Kubernetes' schema and the code, the image does what it says, the job's script runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import dockerfile
import kubernetes_validate
import pytest
import yaml
from house import NAMESPACE, write_folder

from ringfeedd.cli.main import _parser
from ringfeedd.config import load

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "docs/deploy"
KUBERNETES = "1.34"
UID = 9753
MANIFESTS = [
    (path.name, document)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def pods():
    """Yield the pod of each manifest that has one."""
    return [(name, one["spec"]["template"]["spec"]) for name, one in MANIFESTS if "spec" in one]


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def daemon(pod):
    return next((each for each in containers(pod) if each["name"] == "ringfeed"), None)


@pytest.mark.parametrize(("name", "manifest"), MANIFESTS)
def test_a_manifest_fits_the_schema(name, manifest):
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_wrong_key_in_a_manifest_is_noticed():
    manifest = {**MANIFESTS[1][1], "specification": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="specification"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "pod"), pods())
def test_every_container_of_a_pod_shares_the_memory(name, pod):
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm.get("hostPath", {}).get("path") == "/dev/shm" or shm["emptyDir"]["medium"] == "Memory"
    for container in containers(pod):
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        known = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= known


@pytest.mark.parametrize(("name", "pod"), pods())
def test_daemon_and_trainers_share_user_or_group(name, pod):
    """The images of both have the same user, or one group."""
    context = pod["securityContext"]
    assert UID in (context.get("runAsUser"), *context.get("supplementalGroups", []))
    if (container := daemon(pod)) is not None:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert context["runAsNonRoot"]
        assert {"startupProbe", "livenessProbe"} < set(container)
        assert "memory" in container["resources"]["limits"]


def test_pods_daemons_understand_their_command_and_config(tmp_path):
    config = next(manifest for _, manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
    file = tmp_path / "ringfeed.toml"
    file.write_text(config["data"]["ringfeed.toml"])
    loaded = load(file, {}).config
    assert loaded.group == "ringfeed"
    pod = next(pod for _, pod in pods() if "hostPath" in str(pod) and daemon(pod))
    mounts = {mount["mountPath"] for mount in daemon(pod)["volumeMounts"]}
    assert str(Path(loaded.http_token_file).parent) in mounts
    for _, pod in pods():
        if (container := daemon(pod)) is not None:
            _parser().parse_args(container["args"])
            for probe in ("startupProbe", "livenessProbe"):
                asked = container[probe]
                if "exec" in asked:
                    _parser().parse_args(asked["exec"]["command"][1:])
                else:
                    assert (asked["httpGet"]["path"], loaded.http.endswith(":9753")) == ("/healthz", True)


def steps():
    return dockerfile.parse_file(str(DEPLOY / "Dockerfile"))


def test_the_image_is_rootless_and_checks_its_health():
    last = steps()[max(number for number, step in enumerate(steps()) if step.cmd.upper() == "FROM") :]
    values = {step.cmd.upper(): step.value for step in last}
    assert values["USER"] == (f"{UID}:{UID}",)
    assert "ringfeed status" in " ".join(values["HEALTHCHECK"])
    assert values["FROM"][0].endswith("-slim")
    assert values["ENTRYPOINT"] == ("ringfeed",)
    assert _parser().parse_args(values["CMD"]).config == Path("/etc/ringfeed/ringfeed.toml")
    made = " ".join(values["RUN"])
    assert f"--uid {UID}" in made
    assert f"--gid {UID}" in made


def test_the_image_is_built_from_the_checkouts_files():
    built = " ".join(" ".join(step.value) for step in steps() if step.cmd.upper() == "RUN")
    locks = re.findall(r"-r (\S+)", built)
    assert locks
    assert all((REPOSITORY / lock).is_file() for lock in locks)
    lock = (REPOSITORY / locks[0]).read_text()
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    assert all(f"{re.split('[<>=~]', need)[0]}==" in lock for need in wanted)  # --no-build-isolation needs them


@pytest.mark.parametrize("script", sorted((DEPLOY / "slurm").glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_sound_shell(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


FAKE_SRUN = """#!/usr/bin/env bash
# One node: runs the command as SLURM's step would, and hands signals on.
while [[ "$1" == --* ]]; do shift; done
export SLURM_NODEID=0 SLURM_NNODES=1
exec "$@"
"""


def on_path(folder, name, text):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_a_job_feeds_its_trainer_and_stops_ringfeed(tmp_path):
    """A stand-in for srun is one node; the ring `train` has a /dev/shm of its own."""
    path = tmp_path / "bin"
    path.mkdir()
    on_path(path, "srun", FAKE_SRUN)
    on_path(path, "ringfeed", f'#!/bin/sh\nexec {sys.executable} -m ringfeedd "$@"\n')
    on_path(path, "job", f'#!/bin/sh\n{DEPLOY}/slurm/job.sh "$@"\ncode=$?\nls /dev/shm\nexit $code\n')
    environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "SLURM_NNODES": "1"}
    reads = "import ringfeed\nwith ringfeed.attach('train', batch_size=4) as reader:"
    reads += "\n    print('read', sum(len(batch.ids) for batch in reader))"

    def job(root):
        return subprocess.run(
            [*NAMESPACE, "size=64m", path / "job", root, sys.executable, "-c", reads],
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = job(write_folder(tmp_path / "set", 12))
    assert "stopped: SIGTERM" in done.stderr, done.stderr
    assert done.stdout.split("ready: ")[1].partition("\n")[2] == "read 12\n"  # and /dev/shm is empty
    assert done.returncode == 0
    missing = job(tmp_path / "none")
    assert missing.returncode == 1
    assert "a daemon ended before it was ready" in missing.stderr
    assert "read" not in missing.stdout
