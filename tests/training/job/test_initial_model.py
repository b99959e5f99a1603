from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tilewise.data.channel import DataSet, Split
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.records import Record, Records
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.models.build import build_detector
from tilewise.models.spec import DetectorSpec
from tilewise.targets import Targets
from tilewise.tasks.detection.fit_spec import fit_spec
from tilewise.tasks.detection.task import DetectionTask
from tilewise.training.job import initial_model
from tilewise.training.job.initial_model import check_initial, go_on_from, read_initial_model


def pack(folder: Path, archive: Path, prefix: str = "") -> Path:
    """Pack the files of a model folder, not compressed, which takes long."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{prefix}{path.name}")
    return archive


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("prefix", ["./", "model/"])
def test_read__an_archive(model_folder: Path, channel: Path, prefix: str) -> None:
    pack(model_folder, channel / "model.tar.gz", prefix)
    (channel / "output.tar.gz").write_bytes(b"what a job's prefix also has")
    artifact = read_initial_model(channel)
    assert artifact.classes == ("ant", "bee")
    assert [path.name for path in channel.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("sub", ["", "deep/er"])
def test_read__unpacked(model_folder: Path, channel: Path, sub: str) -> None:
    (channel / sub).mkdir(parents=True, exist_ok=True)
    for path in model_folder.iterdir():
        (channel / sub / path.name).write_bytes(path.read_bytes())
    assert read_initial_model(channel).classes == ("ant", "bee")


def test_read__temporary_files_are_removed(
    model_folder: Path, channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with gzip.open(pack(model_folder, channel / "model.tar.gz").with_suffix(".tgz"), "wb", 1) as file:
        file.write((channel / "model.tar.gz").read_bytes())
    (channel / "model.tar.gz").unlink()
    read_initial_model(channel)
    assert not list(temporary.iterdir())
    (channel / "model.tar.tgz").write_bytes((channel / "model.tar.tgz").read_bytes()[:-2000])
    with pytest.raises(UserError):
        read_initial_model(channel)
    assert not list(temporary.iterdir())


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def plain(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def special(kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo("model.json")
    info.type, info.linkname = kind, target
    return info, b""


MXNET = ("model_algo_1-0000.params", "model_algo_1-symbol.json", "hyperparams.json")
NEWER = json.dumps({"format": 99}).encode()
REFUSED: dict[str, tuple[bytes, str]] = {
    "absolute": (archive_of(plain("/etc/passwd2")), "/etc/passwd2 would lie outside of its folder"),
    "above": (archive_of(plain("../../evil")), "../../evil would lie outside of its folder"),
    "symlink": (archive_of(special(tarfile.SYMTYPE, "/etc/passwd")), "model.json is a link or a device"),
    "hard_link": (archive_of(special(tarfile.LNKTYPE, "/etc/passwd")), "model.json is a link or a device"),
    "device": (archive_of(special(tarfile.CHRTYPE)), "model.json is a link or a device"),
    "fifo": (archive_of(special(tarfile.FIFOTYPE)), "model.json is a link or a device"),
    "too_large": (archive_of(plain("model.json", bytes(2001))), "is not unpacked: it has over"),
    "too_many": (archive_of(*[plain(f"{index}") for index in range(21)]), "is not unpacked: it has over 20"),
    "cut": (archive_of(plain("a", bytes(range(256)) * 4))[:-90], "is damaged, or no tar archive"),
    "no_tar": (gzip.compress(b"a text that is no archive" * 99), "is damaged, or no tar archive"),
    "no_gzip": (b"a text" * 99, "is damaged, or no tar archive"),
    "empty_file": (b"", "is damaged, or no tar archive"),
    "nothing_in_it": (archive_of(), "holds no model of Tilewise (nothing)"),
    "mxnet": (
        archive_of(*map(plain, MXNET)),
        "is a model of the built-in algorithm (hyperparams.json, model_algo_1-0000.params, "
        "model_algo_1-symbol.json): its MXNet weights cannot be trained further here",
    ),
    "other": (archive_of(plain("saved_model.pb")), "holds no model of Tilewise (saved_model.pb): give it"),
    "newer": (archive_of(plain("model.json", NEWER)), "model.json has format 99, which this version"),
    "damaged": (archive_of(plain("model.json", b"{")), "is damaged: JSONDecodeError"),
    "two": (archive_of(plain("a/model.json"), plain("b/model.json")), "holds 2 models: give it one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_read__refused(case: str, channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial_model, "MAX_FILES", 20)
    monkeypatch.setattr(initial_model, "MAX_BYTES", 2000)
    content, words = REFUSED[case]
    (channel / "model.tar.gz").write_bytes(content)
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(UserError) as error:
        read_initial_model(channel)
    assert str(error.value).startswith("channel model: model.tar.gz")
    assert words in str(error.value)
    assert "/tmp" not in str(error.value)
    assert {path for path in tmp_path.rglob("*")} == before


def _two_archives(channel: Path, model: Path) -> None:
    for name in ("one", "two"):
        (channel / f"{name}.tar.gz").write_bytes(b"")


def _two_jobs(channel: Path, model: Path) -> None:
    for name in ("one", "two"):
        (channel / name).mkdir()
        (channel / name / "model.tar.gz").write_bytes(b"")


def _both(channel: Path, model: Path) -> None:
    for name in ("model.tar.gz", "model.json"):
        (channel / name).write_bytes(b"")


def _loose_mxnet(channel: Path, model: Path) -> None:
    for name in MXNET:
        (channel / name).write_text("")


def _without_weights(channel: Path, model: Path) -> None:
    (channel / "model.json").write_bytes((model / "model.json").read_bytes())


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (_two_archives, "channel model holds 2 models (one.tar.gz, two.tar.gz): give it one"),
        (_two_jobs, "channel model holds 2 models (one/model.tar.gz, two/model.tar.gz): give it one"),
        (_both, "channel model holds 2 models (model.tar.gz, model.json): give it one"),
        (_loose_mxnet, "channel model is a model of the built-in algorithm"),
        (_without_weights, "model.safetensors is missing"),
        (lambda channel, model: None, "channel model holds no model of Tilewise (nothing)"),
        (lambda channel, model: channel.rmdir(), "the folder of channel model is not there"),
    ],
)
def test_read__refused_channel(
    prepare: Callable[[Path, Path], None], words: str, channel: Path, model_folder: Path
) -> None:
    prepare(channel, model_folder)
    with pytest.raises(UserError) as error:
        read_initial_model(channel)
    assert words in str(error.value)


def data_of(*classes: str, side: float = 30) -> DataSet:
    boxes = np.array([[10, 10, 10 + side, 10 + side]], np.float32)
    record = Record("a", Path("a"), 320, 320, Targets(boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_)))
    return DataSet(classes, Split(Records([record]), ChannelIssues("train", 1)), None)


@pytest.mark.parametrize(
    ("given", "classes", "words"),
    [
        ({}, ("ant",), "the classes 1 (ant), but that model 2 (ant, bee)"),
        (
            {"model_name": "ssd_vgg16"},
            ("ant", "bee"),
            "model_name ssd_vgg16, but that model ssdlite_mobilenet_v3_large",
        ),
    ],
)
def test_check__another_detector_is_refused(
    given: dict[str, object], classes: tuple[str, ...], words: str, model_folder: Path
) -> None:
    initial = Artifact.load(model_folder)
    hp = parse_hyperparameters({"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320} | given)
    with pytest.raises(UserError) as error:
        check_initial(initial, fit_spec(hp, data_of(*classes), initial.spec), classes, task=DetectionTask())
    assert str(error.value).startswith(f"channel model: this job has {words}. Set them alike")
    in_pretrained = "give the .safetensors of that model's archive in the channel pretrained" in str(
        error.value
    )
    assert in_pretrained == ("model_name" not in given)


@pytest.mark.parametrize("classes", [("ant", "wasp"), ("bee", "ant"), ("0", "1")])
def test_check__names_of_classes_and_image_size_may_be_others(
    classes: tuple[str, str], model_folder: Path
) -> None:
    initial = Artifact.load(model_folder)
    hp = parse_hyperparameters({"model_name": "ssdlite_mobilenet_v3_large", "image_size": 640})
    check_initial(initial, fit_spec(hp, data_of(*classes), initial.spec), classes, task=DetectionTask())


@pytest.mark.parametrize(("before", "now"), [(300, 512), (512, 300)])
def test_go_on_from__what_fits_another_image_size(
    before: int, now: int, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of("ant", "bee", side=8)

    def spec_of(size: int, initial: DetectorSpec | None = None) -> DetectorSpec:
        hp = parse_hyperparameters({"model_name": "ssd_resnet50", "image_size": size})
        return fit_spec(hp, data, initial)

    torch.manual_seed(0)
    earlier = build_detector(spec_of(before))
    initial = dataclasses.replace(Artifact.load(model_folder), spec=spec_of(before), model=earlier)
    spec = spec_of(now, initial.spec)
    assert spec == spec_of(now)  # other feature maps: anchors of its own
    check_initial(initial, spec, ("ant", "bee"), task=DetectionTask())
    detector = build_detector(spec)
    go_on_from(detector, initial)
    state, expected = detector.network.state_dict(), earlier.network.state_dict()
    same = [key for key in state if key in expected and torch.equal(state[key], expected[key])]
    assert all(key in same for key in state if key.startswith("backbone.body"))
    assert len(same) < len(state)
    assert "these begin anew: " in caplog.text


def test_go_on_from__the_models_own_anchors_and_weights(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    initial = Artifact.load(model_folder)
    hp = parse_hyperparameters({"model_name": "ssdlite_mobilenet_v3_large", "image_size": 320})
    data = data_of("ant", "bee", side=8)
    assert fit_spec(hp, data).anchor_sizes is not None
    spec = fit_spec(hp, data, initial.spec)
    assert spec.anchor_sizes is None
    assert "the anchors are those of the model in channel model: the published ones" in caplog.text
    detector = build_detector(spec)
    go_on_from(detector, initial)
    state, expected = detector.network.state_dict(), initial.model.network.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
