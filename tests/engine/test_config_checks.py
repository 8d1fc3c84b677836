"""Mistakes in configs and overrides are found before anything is built."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from roca_nocs.engine.config import ConfigError, check_config, check_datasets, load_config
from roca_nocs.engine.launch import argument_parser, resolve_device, start

CONFIG = Path(__file__).parents[2] / "configs/mask_rcnn/rooms_r18.py"


def test_overrides_are_applied() -> None:
    config = load_config(
        CONFIG,
        [
            "train.max_iter=7",
            "model.proposal_generator.anchor_generator.sizes.0=[8]",
            "+dataloader.train.seed=4",
            "++optimizer.amsgrad=True",
            "optimizer.betas=[0.8,0.9]",
        ],
    )
    assert config.train.max_iter == 7
    assert config.model.proposal_generator.anchor_generator.sizes[0] == [8]
    assert config.dataloader.train.seed == 4
    assert config.optimizer.amsgrad and config.optimizer.betas == [0.8, 0.9]


@pytest.mark.parametrize(
    ("override", "closest"),
    [
        ("train.max_iters=7", "train.max_iter"),
        ("model.roi_heads.num_class=7", "model.roi_heads.num_classes"),
        ("optimiser.lr=0.1", "optimizer.lr"),
        ("optimizer.params.weight_decay_norms=0", "optimizer.params.weight_decay_norm"),
    ],
)
def test_misspelt_override(override: str, closest: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIG, [override])
    assert str(caught.value) == (
        f"override '{override}': {CONFIG} has no key '{key}'. Did you mean '{closest}'? "
        f"To add a new key write +{override}"
    )


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("train.clip_grad.params.max_norm=1", "train.clip_gradients.norm"),
        ("+train.clip_grad=1", "train.clip_gradients.norm"),
        ("train.model_ema.enabled=True", "train.ema"),
        ("model.device=cpu", "train.device"),
        ("model.transformer.decoder.return_intermediate=True", "model.aux_loss"),
    ],
)
def test_keys_of_detrex_are_explained(override: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf" of detrex is here {ours}"):
        load_config(CONFIG, [override])


def test_fast_dev_run(tmp_path: Path) -> None:
    file = CONFIG.parents[1] / "aligndetr/r50_12ep.py"
    config = load_config(file, ["train.fast_dev_run.enabled=True"])
    for each in (config, load_config(_saved(config, tmp_path))):
        settings = each.train.max_iter, each.train.eval_period, each.train.log_period
        assert settings == (20, 10, 1)
        # The rate falls after 11 of 12 parts, as in the whole training.
        schedule = instantiate(each.lr_multiplier)
        assert schedule(18 / 20) == 1 and schedule(19 / 20) == pytest.approx(0.1)


def _saved(config: DictConfig, folder: Path) -> Path:
    LazyConfig.save(config, str(folder / "config.yaml"))
    return folder / "config.yaml"


@pytest.mark.parametrize("override", ["--resume", "train.max_iter", "train.max_iter=[1"])
def test_malformed_override(override: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form key=value") as caught:
        load_config(CONFIG, [override])
    assert f"override '{override}'" in str(caught.value)


def test_override_beyond_a_list() -> None:
    with pytest.raises(ConfigError, match=r"has no key 'optimizer.betas.2'"):
        load_config(CONFIG, ["optimizer.betas.2=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+traim.x=1", r"unknown top-level key 'traim'. Did you mean 'train'\? Known are model, "),
        ("+train.max_iters=1", r"unknown key train.max_iters. Did you mean 'max_iter'\?"),
        ("+train.ema.decoy=1", r"unknown key train.ema.decoy. Did you mean 'decay'\?"),
        ("train.max_iter=many", r"train.max_iter: Value 'many' of type 'str' could not be conv"),
        ("train.ema.enabled=2.5", r"train.ema.enabled: Value '2.5' is not a valid bool"),
        ("train.ema=3", r"train.ema must be a dict, got 3"),
        ("train.amp.dtype=half", r"'float16' or 'bfloat16', got 'half'"),
        ("train.clip_gradients.value=1", r"norm or .value, not both"),
    ],
)
def test_wrong_settings(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(CONFIG, [override])
    assert str(CONFIG) in str(caught.value)


def test_hooks_have_names(tmp_path: Path) -> None:
    config = load_config(CONFIG)
    config.hooks = [{"_target_": "detectron2.engine.hooks.IterationTimer"}]
    with pytest.raises(ConfigError, match="hooks must be a dict"):
        check_config(config, tmp_path / "config.yaml")


def test_missing_keys() -> None:
    config = LazyConfig.load(str(CONFIG))
    del config.train.ema.decay
    with pytest.raises(ConfigError, match=r"mine.py: missing train.ema.decay: start from"):
        check_config(config, "mine.py")
    del config.train
    with pytest.raises(ConfigError, match=r"mine.py: missing top-level key train"):
        check_config(config, "mine.py")


def test_unregistered_data_set() -> None:
    config = load_config(CONFIG, ["dataloader.train.dataset.names=coco_2017_trian"])
    with pytest.raises(ConfigError, match=r"dataloader.train.dataset.names names the data set"):
        check_datasets(config, ["train"], CONFIG)
    with pytest.raises(ConfigError, match=r"Similar names: coco_2017_train"):
        check_datasets(config, ["train"], CONFIG)


def test_data_set_without_files(tmp_path: Path) -> None:
    name, file = "config_checks_data", tmp_path / "a.json"
    config = load_config(CONFIG, [f"dataloader.test.dataset.names=[{name}]"])
    DatasetCatalog.register(name, lambda: file.read_text() and [])
    MetadataCatalog.get(name).set(json_file=str(file), image_root=str(tmp_path))
    try:
        with pytest.raises(ConfigError, match=rf"{name}', but .*a.json does not exist: .*No such"):
            check_datasets(config, ["test"], CONFIG)
        file.touch()
        check_datasets(config, ["test", "evaluator"], CONFIG)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_parts_without_data_sets() -> None:
    config = OmegaConf.create({"dataloader": {"train": {"_target_": "builtins.list"}}})
    check_datasets(config, ["train", "test"], "mine.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-processes", "2"], "add --num-gpus 0"),
        (["--num-gpus", "99"], r"--num-gpus 99, but torch sees \d+ CUDA devices"),
    ],
)
def test_impossible_numbers_of_processes(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start(print, argument_parser().parse_args(arguments))


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device(None) == "cpu" and resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"train.device is 'cuda:0', but no CUDA device"):
        resolve_device("cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_device(None) == "cuda" and resolve_device("cuda") == "cuda"
