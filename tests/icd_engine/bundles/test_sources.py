"""Published files are found in archives, folders and hub repositories, and nothing else comes out
of those."""

import io
import tarfile
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest

from icd_engine.bundles import sources as sources_module
from icd_engine.bundles.convert import convert
from icd_engine.bundles.sources import gathered
from icd_engine.errors import BundleError

# As the authors publish them.
TEACHER = "sd15_cfg_distill.pt"
FORWARD, REVERSE = (
    "iCD-SD15-forward_19_259_519_779.safetensors",
    "iCD-SD15-reverse_259_519_779_999.safetensors",
)


def archive(path, members, mode="w:gz"):
    """members: name -> bytes, or a TarInfo."""
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def paths(tmp_path, **given):
    plain = {
        name: tmp_path / name
        for name in ("base", "teacher.pt", "forward.safetensors", "reverse.safetensors")
    }
    names = {key.split(".")[0]: path for key, path in plain.items()}
    return {**names, **given, "beside": tmp_path}


def read(tmp_path, **given):
    """{role: content} of what was gathered."""
    with gathered(**paths(tmp_path, **given)) as sources:
        return {role: getattr(sources, role).read_bytes() for role in given}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("folder", ["", "iCD-SD15/", "./"], ids=["bare", "in a folder", "dotted"])
def test_one_archive_holds_both_directions(tmp_path, suffix, folder):
    members = {folder + FORWARD: b"up", folder + REVERSE: b"down", folder + "README.md": b"x"}
    both = archive(
        tmp_path / f"iCD-SD15_4steps_1{suffix}", members, "w" if suffix == ".tar" else "w:gz"
    )
    assert read(tmp_path, forward=both, reverse=both) == {"forward": b"up", "reverse": b"down"}


@pytest.mark.parametrize(
    ("forward", "reverse"),
    [
        (FORWARD, REVERSE),
        ("a_19_339_699.safetensors", "b_339_699_999.safetensors"),
        ("fcd-forward.safetensors", "cd.safetensors"),
    ],
    ids=["published", "time steps", "one named"],
)
def test_members_are_known_by_role_or_time_steps(tmp_path, forward, reverse):
    both = archive(tmp_path / "both.tar.gz", {reverse: b"down", forward: b"up"})
    assert read(tmp_path, forward=both, reverse=both) == {"forward": b"up", "reverse": b"down"}


def test_a_teacher_in_an_archive(tmp_path):
    assert read(tmp_path, teacher=archive(tmp_path / f"{TEACHER}.tar.gz", {TEACHER: b"t"})) == {
        "teacher": b"t"
    }


def test_unpacked_files_keep_their_names_and_go_afterwards(tmp_path):
    both = archive(tmp_path / "both.tar.gz", {FORWARD: b"up", REVERSE: b"down"})
    with gathered(**paths(tmp_path, forward=both, reverse=both)) as sources:
        assert (sources.forward.name, sources.reverse.name) == (FORWARD, REVERSE)
        assert sources.forward.is_relative_to(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["both.tar.gz"]


@pytest.mark.parametrize("folder", ["", "iCD-SD15/", "./"], ids=["bare", "in a folder", "dotted"])
def test_pefts_configuration_stays_beside_its_file(tmp_path, folder):
    members = {folder + "adapter_config.json": b"{}", folder + FORWARD: b"up", REVERSE: b"down"}
    both = archive(
        tmp_path / "both.tar.gz", {**members, f"deep/{folder}adapter_config.json": b"not this one"}
    )
    with gathered(**paths(tmp_path, forward=both, reverse=both)) as sources:
        assert (sources.forward.parent / "adapter_config.json").read_bytes() == b"{}"
        beside = sources.reverse.parent / "adapter_config.json"
        assert beside.exists() == (folder != "iCD-SD15/")


def test_a_folder_holds_both_directions(tmp_path):
    for name, content in ((f"{FORWARD}", b"up"), (f"deep/{REVERSE}", b"down")):
        (tmp_path / "lora" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lora" / name).write_bytes(content)
    folder = tmp_path / "lora"
    assert read(tmp_path, forward=folder, reverse=folder) == {"forward": b"up", "reverse": b"down"}


def test_a_folder_of_each_direction(tmp_path):
    for role in ("forward", "reverse"):
        (tmp_path / "lora" / role).mkdir(parents=True)
        (tmp_path / "lora" / role / "pytorch_lora_weights.safetensors").write_bytes(role.encode())
    folder = tmp_path / "lora"
    assert read(tmp_path, forward=folder, reverse=folder) == {
        "forward": b"forward",
        "reverse": b"reverse",
    }


def test_companions_of_macos_are_no_candidates(tmp_path):
    members = {f"._{FORWARD}": b"x", FORWARD: b"up", f"._{REVERSE}": b"x", REVERSE: b"down"}
    both = archive(tmp_path / "both.tar.gz", members)
    assert read(tmp_path, forward=both, reverse=both) == {"forward": b"up", "reverse": b"down"}


def test_a_folder_of_diffusers_loader(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"up")
    assert read(tmp_path, forward=tmp_path / "lora") == {"forward": b"up"}


def link(name, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"README.md": b""}, r"one file is needed for the forward model, found no \.safetensors"),
        ({REVERSE: b""}, r"found no \.safetensors"),
        ({FORWARD: b"", f"other/{FORWARD}": b""}, f"found {FORWARD}, other/{FORWARD}"),
        ({FORWARD: link(FORWARD)}, f"{FORWARD} is a link"),
        ({FORWARD: link(FORWARD, tarfile.LNKTYPE)}, f"{FORWARD} is a link"),
        ({FORWARD: link(FORWARD, tarfile.FIFOTYPE)}, f"{FORWARD} is a link or a device"),
    ],
    ids=["none", "the other's", "two", "link", "hard link", "pipe"],
)
def test_what_is_not_one_file_is_refused(tmp_path, members, message):
    with pytest.raises(BundleError, match=message) as raised:
        read(tmp_path, forward=archive(tmp_path / "both.tar.gz", members))
    assert "both.tar.gz" in str(raised.value)


def test_names_that_lead_out_stay_inside(tmp_path):
    out = archive(tmp_path / "both.tar.gz", {f"../../{FORWARD}": b"up"})
    with gathered(**paths(tmp_path, forward=out)) as sources:
        assert sources.forward.resolve().is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_archive_is_refused(tmp_path, share):
    import os

    whole = archive(tmp_path / "both.tar.gz", {FORWARD: os.urandom(100_000)})
    data = whole.read_bytes()
    whole.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BundleError, match=r"both\.tar\.gz"):
        read(tmp_path, forward=whole)
    assert [path.name for path in tmp_path.iterdir()] == ["both.tar.gz"]


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"none\.tar\.gz is missing"):
        read(tmp_path, forward=tmp_path / "none.tar.gz")


def test_a_full_disk_is_not_a_damaged_archive(tmp_path, monkeypatch):
    def copyfileobj(source, file, length):
        raise OSError(28, "No space left on device")

    whole = archive(tmp_path / "both.tar.gz", {FORWARD: b"up"})
    monkeypatch.setattr(sources_module.shutil, "copyfileobj", copyfileobj)
    with pytest.raises(BundleError, match=r"both\.tar\.gz cannot be unpacked in .*No space left"):
        read(tmp_path, forward=whole)
    monkeypatch.setattr(sources_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(BundleError, match=rf"both\.tar\.gz: no room to unpack {FORWARD}"):
        read(tmp_path, forward=whole)
    assert [path.name for path in tmp_path.iterdir()] == ["both.tar.gz"]


def test_repositories_of_the_hub(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        (tmp_path / "hub" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name / "pytorch_lora_weights.safetensors").write_bytes(name.encode())
        return str(tmp_path / "hub" / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with gathered(
        *map(type(tmp_path), ("org/base", "org/teacher", "org/fcd", "org/cd")), beside=tmp_path
    ) as sources:
        assert (
            sources.base == tmp_path / "hub/org/base"
            and sources.teacher == tmp_path / "hub/org/teacher"
        )
        assert sources.base_name == "org/base@base"  # the hub's cache ends in a revision
        assert (
            sources.forward.read_bytes() == b"org/fcd" and sources.reverse.read_bytes() == b"org/cd"
        )
    assert list(asked) == ["org/base", "org/teacher", "org/fcd", "org/cd"]
    assert not any(
        pattern.endswith((".bin", ".pt", ".ckpt", "*"))
        for own in asked.values()
        for pattern in own
        if "tokenizer" not in pattern
    )


@pytest.mark.parametrize("variant", ["", ".fp16"], ids=["both", "half precision alone"])
def test_half_precision_is_downloaded_where_there_is_nothing_else(tmp_path, monkeypatch, variant):
    """Whole files first; of networks without, their fp16 files, not those of the others."""
    folder = tmp_path / "hub" / "abc"
    served = [f"unet/diffusion_pytorch_model{variant}.safetensors", "vae/config.json"]
    served += ["vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors"]
    served += ["text_encoder/model.fp16.safetensors", "unet/diffusion_pytorch_model.bin"]

    def snapshot_download(name, allow_patterns):
        for file in served:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    for name in ("forward.safetensors", "reverse.safetensors"):
        (tmp_path / name).touch()
    with gathered(**paths(tmp_path, base=type(tmp_path)("org/base"))) as sources:
        assert sources.base == folder and sources.base_name == "org/base@abc"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert names == sorted(served[:4])


def test_a_hub_that_cannot_be_reached_is_one_error(tmp_path, monkeypatch):
    def snapshot_download(name, allow_patterns):
        raise OSError("no\n route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BundleError,
        match="org/base is neither a path here nor a repository the hub gives: no route",
    ):
        read(tmp_path, base=type(tmp_path)("org/base"))


def test_a_hub_that_may_not_be_asked_is_one_error(tmp_path, monkeypatch):
    """With HF_HUB_OFFLINE, which the client reads once, when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BundleError, match=r"no-such-owner/base is neither a path here .*outgoing traffic"
    ):
        read(tmp_path, base=type(tmp_path)("no-such-owner/base"))


def test_the_authors_archives_convert_to_the_same_bundle(golden, tmp_path):
    """Time steps are then those of the members' names."""
    forward, reverse = (golden / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse"))
    both = archive(
        tmp_path / "i.tar.gz", {FORWARD: forward.read_bytes(), REVERSE: reverse.read_bytes()}
    )
    teacher = archive(tmp_path / f"{TEACHER}.tar.gz", {TEACHER: (golden / TEACHER).read_bytes()})
    plain = convert(golden / "base", golden / TEACHER, forward, reverse, tmp_path / "plain")
    packed = convert(golden / "base", teacher, both, both, tmp_path / "packed")
    assert packed.sha256 == plain.sha256
    assert (packed.encode_times, packed.decode_times) == ((19, 259, 519, 779), (259, 519, 779, 999))
    assert packed.origin["forward"]["file"] == FORWARD
    assert not [note for note in packed.origin["notes"] if "times assumed" in note]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "i.tar.gz",
        "packed",
        "plain",
        f"{TEACHER}.tar.gz",
    ]
