"""Files for containers: what they say is there and holds, and the Dockerfile's own steps, run without
Docker where there is none."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "docs" / "deploy" / "kuberay.yaml"
USER = 10001


def instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction of the Dockerfile."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if line[:1] != "#"
    )
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found = [line.partition(" ") for line in lines]
    return [(name, " ".join(rest.split())) for name, _, rest in found]


def last(name: str) -> str:
    return [rest for own, rest in instructions() if own == name][-1]


def compose() -> dict:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_the_image_is_run_by_a_user_without_rights():
    assert last("USER") == f"{USER}:{USER}"
    after = [name for name, _ in instructions()]
    assert "RUN" not in after[len(after) - 1 - after[::-1].index("FROM") :]


def test_what_is_copied_is_there_and_not_ignored():
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY"]
    sources = {name for row in copied if row[0][:2] != "--" for name in row}
    assert sources == kept and all((ROOT / name).exists() for name in sources)
    packages = re.findall(r'"(\w+)\*"', (ROOT / "pyproject.toml").read_text())
    assert set(packages) <= sources


def test_the_health_check_asks_the_service_and_no_proxy(tmp_path):
    """Its own program, against a server that is there and one that is not."""
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port = re.search(r"port (\d+)", server.stdout.readline())
        assert port is not None
        for path, code in (("/", 0), ("/none", 1)):
            environment = os.environ | {
                "ICD_HEALTH": f"http://127.0.0.1:{port[1]}{path}",
                "http_proxy": "http://127.0.0.1:9",
            }
            done = subprocess.run(
                [sys.executable, *command[1:]], env=environment, capture_output=True
            )
            assert done.returncode == code
    finally:
        server.terminate()
        server.wait()


def test_compose_has_service_and_page_on_read_only_roots():
    services = compose()["services"]
    assert set(services) == {"service", "page"}
    for one in services.values():
        assert one["read_only"] and one["cap_drop"] == ["ALL"] and one["tmpfs"] == ["/tmp"]
        assert all(port.startswith("127.0.0.1:") for port in one["ports"])
    assert services["service"]["environment"].keys() == {"ICD_TOKEN"}


@pytest.mark.parametrize("name", ["service", "page"])
def test_composes_commands_have_these_options(name):
    from typer.testing import CliRunner

    from icd_engine.cli.app import app

    command, *options = compose()["services"][name]["command"]
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    assert all(option in shown for option in options if option.startswith("--"))


def test_the_manifest_names_an_application_that_takes_its_arguments(monkeypatch):
    pytest.importorskip("ray.serve")
    from importlib import import_module

    from ray.serve import Application
    from ray.serve.schema import ServeDeploySchema

    from icd_engine.errors import RunnerError

    service = yaml.safe_load(MANIFEST.read_text())["spec"]
    config = ServeDeploySchema(**yaml.safe_load(service["serveConfigV2"]))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    build = getattr(import_module(module), name)
    given = {**application.args, "model": "tiny"}
    monkeypatch.delenv("ICD_TOKEN", raising=False)
    with pytest.raises(RunnerError, match="ICD_TOKEN"):
        build(given)
    monkeypatch.setenv("ICD_TOKEN", "secret")
    assert isinstance(build(given), Application)
    with pytest.raises(ValueError, match="modle"):
        build({**given, "modle": "tiny"})


def strict(schema: object) -> None:
    """A custom resource's schema, in place, so that fields it does not know are errors."""
    if isinstance(schema, dict):
        open_to_all = schema.get("x-kubernetes-preserve-unknown-fields")
        if schema.get("type") == "object" and schema.get("properties") and not open_to_all:
            schema.setdefault("additionalProperties", False)
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            strict(inner)


@pytest.mark.long
def test_the_manifest_is_one_of_kuberays():
    """ICD_KUBERAY_CRD: ray.io_rayservices.yaml of KubeRay's Helm chart."""
    path = os.environ.get("ICD_KUBERAY_CRD")
    if not path:
        pytest.skip("needs KubeRay's schema: ICD_KUBERAY_CRD=ray.io_rayservices.yaml")
    jsonschema = pytest.importorskip("jsonschema")
    versions = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
    (schema,) = (one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1")
    strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert list(jsonschema.Draft7Validator(schema).iter_errors(manifest)) == []
    manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["templat"] = {}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(manifest)) != []


# --- the Dockerfile's steps -----------------------------------------------------------------------


def steps(root: Path) -> Iterator[tuple[str, str]]:
    """Instructions of the build, with the image's folders in `root` and its variables filled in.
    Arguments may be given as ICD_BUILD_NAME (an index that is at hand, another torch)."""
    values: dict[str, str] = {}
    for name, rest in instructions():
        if name == "ARG":
            key, _, value = rest.partition("=")
            values[key] = os.environ.get(f"ICD_BUILD_{key}", value)
        for key, value in values.items():
            rest = rest.replace(f"${{{key}}}", value)
        yield name, re.sub(r"(?<![\w.])/(opt|src)(?=/|\b)", rf"{root}/\1", rest)


def python_of_all() -> str | None:
    """A Python that every user may run, and that makes environments; None where there is none."""
    program = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    for name in (os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            done = subprocess.run([name, "-c", program], user=USER, capture_output=True, cwd="/")
        except OSError:
            continue
        if done.returncode == 0:
            return name
    return None


def build(root: Path, python: str) -> None:
    """Runs the first stage by this Python, in `root`."""
    here = root
    tools = root / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(python)
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(root)}
    for name, rest in steps(root):
        if name == "WORKDIR" and "src" in rest:
            here = Path(rest)
            here.mkdir()
        elif name == "COPY" and not rest.startswith("--"):
            *sources, to = rest.split()
            for source in sources:
                place = here / to if len(sources) == 1 else here / to / source
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                copy(ROOT / source, place)
        elif name == "RUN":
            done = subprocess.run(
                rest, shell=True, cwd=here, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{rest}: {done.stderr[-2000:]}"
        elif name == "USER":
            return


@pytest.mark.long
@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="becomes another user: needs root"
)
def test_the_steps_make_a_service_for_a_user_without_rights(tmp_path):
    """In a folder in place of an image: same steps, same variables, same user, and nothing but a
    scratch folder that the user may write to."""
    python = python_of_all()
    if python is None:
        pytest.skip("no Python that other users may run")
    build(tmp_path, python)
    scratch = Path(tempfile.mkdtemp(prefix="icd-"))  # short: names of Ray's sockets have a limit
    os.chown(scratch, USER, USER)
    for folder in (tmp_path, *tmp_path.parents):
        os.chmod(folder, os.stat(folder).st_mode | 0o755)
    variables = dict(item.split("=", 1) for item in shlex.split(last("ENV")))
    environment = {
        name: value.replace("/opt", f"{tmp_path}/opt") for name, value in variables.items()
    }
    environment |= {"HOME": str(scratch), "TMPDIR": str(scratch), "ICD_TOKEN": "secret"}
    environment |= {"OMP_NUM_THREADS": "1", "ICD_HEALTH": "http://127.0.0.1:18123/ready"}
    entry = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD")), "--port", "18123"]
    program = str(tmp_path / "opt" / "icd" / "bin" / entry[0])
    service = subprocess.Popen(
        [program, *entry[1:]], cwd=scratch, env=environment, user=USER, group=USER, extra_groups=[]
    )
    try:
        check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        check[0] = str(tmp_path / "opt" / "icd" / "bin" / "python")
        end = time.monotonic() + 600
        while subprocess.run(check, env=environment, capture_output=True).returncode:
            assert service.poll() is None and time.monotonic() < end
            time.sleep(2)
        request = urllib.request.Request(
            "http://127.0.0.1:18123/v1/models", headers={"Authorization": "Bearer secret"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert json.load(opener.open(request, timeout=30))["data"][0]["id"] == "tiny"
    finally:
        service.terminate()
        code = service.wait(120)
        shutil.rmtree(scratch, ignore_errors=True)
    assert code == 0
