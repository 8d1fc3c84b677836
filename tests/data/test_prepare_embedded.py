"""Generation: the same bytes whatever the workers, resuming, repairing, the command line."""

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.process_pool import locked
from roca_nocs.data.synthetic import generate as generate_module
from roca_nocs.data.synthetic.generate import (
    JOURNAL_NAME,
    Task,
    estimate_bytes,
    generate,
    plan_tasks,
    run_task,
)
from roca_nocs.data.synthetic.manifest import MANIFEST_NAME, FileWriter, check_dataset
from roca_nocs.data.synthetic.models import CATEGORIES
from roca_nocs.data.synthetic.presets import (
    KINDS,
    PRESETS,
    DatasetArguments,
    folder_name,
    preset_arguments,
)

ROOMS = DatasetArguments("rooms", train=3, val=2, width=64, height=48, seed=5)
TABLETOP = DatasetArguments("tabletop", train=3, val=2, width=64, height=48, seed=5)


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAD files of one room class: those of all would take most of the time."""
    monkeypatch.setattr(generate_module, "CATEGORIES", {**CATEGORIES, "rooms": ("display",)})


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def rooms_made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("rooms") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_module, "CATEGORIES", {**CATEGORIES, "rooms": ("display",)})
        generate(root, ROOMS, progress=False)
    yield root


@pytest.fixture
def rooms(rooms_made: Path, tmp_path: Path) -> Path:
    """A finished dataset that may be damaged."""
    return Path(shutil.copytree(rooms_made, tmp_path / "rooms"))


@pytest.fixture
def tasks_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the tasks that are worked on."""
    keys: list[str] = []

    def run(root: str, arguments: DatasetArguments, task: Task) -> dict:
        keys.append(task.key)
        return run_task(root, arguments, task)

    monkeypatch.setattr(generate_module, "run_task", run)
    return keys


def test_plan() -> None:
    scenes = [task for task in plan_tasks(ROOMS) if task.group != "models"]
    assert [(task.key, task.num_images) for task in scenes] == [
        ("train/0", 2),
        ("train/1", 1),
        ("val/0", 2),
        ("val_seen/0", 2),
    ]
    tables = DatasetArguments("tabletop", train=25, val=10, width=64, height=48)
    scenes = [task for task in plan_tasks(tables) if task.group != "models"]
    assert [(task.key, task.num_images) for task in scenes] == [
        ("camera/train/0", 10),
        ("camera/train/1", 10),
        ("camera/train/2", 5),
        ("camera/val/0", 10),
        ("real/train/0", 7),
        ("real/test/0", 10),
    ]
    assert len({task.key for task in plan_tasks(tables)}) == len(plan_tasks(tables))


def test_same_bytes_from_one_and_two_processes(rooms_made: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", ROOMS, workers=2, progress=False)
    first, second = contents(rooms_made), contents(tmp_path / "two")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_tabletop_does_not_depend_on_the_order_of_work(tmp_path: Path) -> None:
    manifest = generate(tmp_path / "set", TABLETOP, progress=False)
    made = contents(tmp_path / "set")
    assert set(made) == {*manifest.files, MANIFEST_NAME, JOURNAL_NAME}
    for task in reversed(plan_tasks(TABLETOP)):
        record = run_task(str(tmp_path / "again"), TABLETOP, task)
        for name in record["files"]:
            assert (tmp_path / "again" / name).read_bytes() == made[name], name


def test_another_seed_gives_other_images(rooms_made: Path, tmp_path: Path) -> None:
    task = Task("val", "", 0, 1)
    arguments = DatasetArguments("rooms", train=3, val=2, width=64, height=48, seed=6)
    for name in run_task(str(tmp_path), arguments, task)["files"]:
        if name.endswith(".jpg"):
            assert (tmp_path / name).read_bytes() != (rooms_made / name).read_bytes()


def test_finished_dataset_is_left_as_it_is(rooms: Path, tasks_run: list[str]) -> None:
    before = contents(rooms)
    generate(rooms, ROOMS, progress=False)
    assert tasks_run == []
    assert contents(rooms) == before


def test_only_damaged_scenes_are_made_again(rooms: Path, tasks_run: list[str]) -> None:
    before = contents(rooms)
    image = rooms / "Images/tasks/scannet_frames_25k/scene0001_00/color/000000.jpg"
    os.truncate(image, 100)
    (rooms / "Rendering/scene0003_00/depth/000000.png").unlink()
    model = rooms / "CADs/03211117/display_v02/models/model_normalized.obj"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    (rooms / "Dataset/scan2cad_instances_train.json").write_text("{}")
    with pytest.raises(DatasetError, match="Only the damaged scenes are made again"):
        check_dataset(rooms, "-")
    generate(rooms, ROOMS, progress=False)
    assert tasks_run == ["models/display/2", "train/1", "val/0"]
    assert contents(rooms) == before


def test_interrupted_run_is_incomplete_and_resumes(
    rooms_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks_run: list[str]
) -> None:
    root = tmp_path / "set"
    done = []

    def stop_at_the_third_scene(root: str, arguments: DatasetArguments, task: Task) -> dict:
        record = run_task(root, arguments, task)
        if task.group != "models":
            done.append(task.key)
        if len(done) == 3:
            raise KeyboardInterrupt
        return record

    with monkeypatch.context() as patch:
        patch.setattr(generate_module, "run_task", stop_at_the_third_scene)
        with pytest.raises(KeyboardInterrupt):
            generate(root, ROOMS, progress=False)
    with pytest.raises(DatasetError, match=r"is incomplete.*Resume it with: again"):
        check_dataset(root, "again")
    # The line that was being written when the power failed.
    with (root / JOURNAL_NAME).open("a") as journal:
        journal.write('{"key":"val/0","num_im')
    generate(root, ROOMS, progress=False)
    assert tasks_run == ["val/0", "val_seen/0"]
    assert contents(root) == contents(rooms_made)


def test_other_numbers_of_images_keep_common_scenes(rooms: Path, tasks_run: list[str]) -> None:
    more = DatasetArguments("rooms", train=5, val=1, width=64, height=48, seed=5)
    generate(rooms, more, progress=False)
    # train/1 had one view and gets its second; val/0 and val_seen/0 lose theirs.
    assert tasks_run == ["train/1", "train/2", "val/0", "val_seen/0"]
    assert check_dataset(rooms, "-", contents=True).arguments == more
    assert not (rooms / "Rendering/scene0001_00/depth/000100.png").exists()
    known = {*check_dataset(rooms, "-").files, MANIFEST_NAME, JOURNAL_NAME}
    assert set(contents(rooms)) == known


def test_changed_generator_makes_everything_again(
    rooms: Path,
    tasks_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(generate_module, "source_hash", lambda kind: "newer")
    generate(rooms, ROOMS, progress=False)
    assert tasks_run == [task.key for task in plan_tasks(ROOMS)]
    assert "the generator has changed since" in caplog.text


@pytest.mark.parametrize(
    ("field", "message"),
    [({"seed": 6}, "seed 5 instead of 6"), ({"width": 80}, "width 64 instead of 80")],
)
def test_other_arguments_do_not_mix(rooms: Path, field: dict, message: str) -> None:
    other = DatasetArguments(**{**ROOMS.as_dict(), **field})
    with pytest.raises(DatasetError, match=rf"made with {message}\. Choose another --output"):
        generate(rooms, other, progress=False)
    check_dataset(rooms, "-", contents=True)


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="is not empty and was not made by this generator"):
        generate(tmp_path, ROOMS, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_two_runs_at_once_are_refused(rooms: Path) -> None:
    with locked(rooms):
        with pytest.raises(DatasetError, match="Another process is generating"):
            generate(rooms, ROOMS, progress=False)


def test_full_disk_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks_run: list[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs about \d+ MB, its disk has 1 MB left"):
        generate(tmp_path / "set", ROOMS, progress=False)
    assert tasks_run == []


def test_estimate_covers_the_tiny_sets(embedded_root: Path) -> None:
    for kind in KINDS:
        arguments = preset_arguments(kind, "tiny")
        manifest = check_dataset(embedded_root / f"{kind}_tiny", "-")
        used = sum(size for size, _ in manifest.files.values())
        assert used < estimate_bytes(arguments, arguments.num_images)
        images = sum(
            size
            for name, (size, _) in manifest.files.items()
            if name.endswith((".png", ".jpg")) or name.startswith("clips/")
        )
        pixels = estimate_bytes(arguments, arguments.num_images) - estimate_bytes(arguments, 0)
        assert 0.5 * pixels < images < pixels


def test_failure_names_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError("no view")

    monkeypatch.setattr(generate_module.write_rooms, "write_room", fail)
    with pytest.raises(ArithmeticError) as error:
        run_task(str(tmp_path), ROOMS, Task("train", "", 7, 2))
    assert "while making train/7" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ocean"}, "Unknown kind 'ocean'; the kinds are rooms, tabletop, street, traffic"),
        ({"train": -1}, "train is -1"),
        ({"train": 0, "val": 0}, "nothing to make"),
        ({"width": 16}, "16x48; each side needs at least 32"),
    ],
)
def test_senseless_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetArguments(**{**ROOMS.as_dict(), **change})
    with pytest.raises(ValueError, match="workers is 0"):
        generate("unused", ROOMS, workers=0)


def test_presets_differ_in_numbers_only() -> None:
    assert PRESETS == ("tiny", "demo", "full")
    for kind in ("rooms", "tabletop"):
        demo, full = preset_arguments(kind, "demo"), preset_arguments(kind, "full")
        assert (demo.train, demo.val, demo.size) == (2400, 200, (120, 160))
        assert (full.train, full.val, full.size) == (2400, 200, (360, 480))
        assert (demo.seed, demo.kind) == (full.seed, full.kind) == (0, kind)
    demo, full = preset_arguments("street", "demo"), preset_arguments("street", "full")
    assert (demo.train, demo.val, demo.size) == (1200, 200, (112, 384))
    assert (full.train, full.val, full.size) == (1200, 200, (336, 1152))
    demo, full = preset_arguments("traffic", "demo"), preset_arguments("traffic", "full")
    assert (demo.train, demo.val, demo.size) == (2400, 200, (96, 96))
    assert (full.train, full.val, full.size) == (10000, 500, (200, 200))
    assert folder_name("rooms", "demo") == "rooms"
    assert folder_name("tabletop", "tiny") == "tabletop_tiny"
    with pytest.raises(ValueError, match="Unknown preset 'huge'; the presets are tiny, demo, full"):
        preset_arguments("rooms", "huge")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "datasets" / "prepare_embedded.py"
    spec = importlib.util.spec_from_file_location("prepare_embedded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_command_line_makes_verifies_and_repairs(
    script: ModuleType, rooms: Path, capsys: pytest.CaptureFixture
) -> None:
    def run(*more: str) -> tuple[int, str, str]:
        options = "--kind rooms --train 3 --val 2 --size 64x48 --seed 5 --workers 1".split()
        status = script.main([*options, "--output", str(rooms), *more])
        return status, *capsys.readouterr()

    status, out, _ = run()
    assert status == 0 and out.startswith("Made in")
    assert "rooms 64x48, images: train 3, val 2, val_seen 2" in out
    (rooms / "Rendering/scene0000_00/noc/000000.png").write_bytes(b"")
    status, _, err = run("--verify")
    assert status == 1 and "000000.png has 0 bytes instead of" in err
    assert run()[0] == 0
    status, out, _ = run("--verify")
    assert status == 0 and out.startswith("Verified in")


def test_default_output_is_where_the_names_look(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def record(root: Path, arguments: DatasetArguments, workers: int) -> None:
        asked.append((root, arguments))
        raise DatasetError("enough")

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(script, "generate", record)
    assert script.main(["--kind", "tabletop", "--preset", "full", "--val", "7"]) == 1
    ((root, arguments),) = asked
    assert root == tmp_path / "tabletop_full"
    assert arguments == DatasetArguments("tabletop", 2400, 7, 480, 360, 0)


def test_ctrl_c_says_how_to_go_on(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "generate", interrupt)
    assert script.main(["--kind", "rooms"]) == 130
    assert "The same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["160", "160x", "ax120", "160*120"])
def test_bad_size_is_explained(
    script: ModuleType, size: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        script.main(["--kind", "rooms", "--size", size])
    assert "write WIDTHxHEIGHT, e.g. 160x120" in capsys.readouterr().err


def test_bad_number_is_explained(script: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert script.main(["--kind", "rooms", "--train", "-4"]) == 1
    assert "error: train is -4; it must not be negative" in capsys.readouterr().err


def test_journal_is_plain_json(rooms: Path) -> None:
    lines = (rooms / JOURNAL_NAME).read_text().splitlines()
    header, *records = map(json.loads, lines)
    assert header["seed"] == 5 and len(records) == len(plan_tasks(ROOMS))


def test_writer_makes_folders(tmp_path: Path) -> None:
    FileWriter(tmp_path).write_text("a/b/c.txt", "ä")
    assert (tmp_path / "a/b/c.txt").read_bytes() == "ä".encode()
