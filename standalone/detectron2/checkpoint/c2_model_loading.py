"""Parameter names of other model zoos: renaming of Caffe2 blobs and matching by name ends."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

import torch
from tabulate import tabulate

StateDict = Mapping[str, torch.Tensor]

_RPN_HEAD = "proposal_generator.rpn_head"
_NORM = r"\.(?:bn|gn)\."

# Applied one after the other to names in which "_" has become ".".
_CAFFE2_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Kinds of parameters.
        (r"\.w$", ".weight"),
        (r"\.b$", ".bias"),
        (_NORM + r"(?:s|gamma)$", ".norm.weight"),
        (_NORM + r"(?:bias|beta)$", ".norm.bias"),
        (_NORM + r"(?:rm|running\.mean)$", ".norm.running_mean"),
        (_NORM + r"(?:riv|running\.var)$", ".norm.running_var"),
        # ResNet. Only a leading "conv1" is the stem; a head can have a conv1 too.
        (r"^(?:res\.)?conv1\.", "stem.conv1."),
        (r"^pred\.(?=weight$|bias$)", "linear."),
        (r"\.branch1\.", ".shortcut."),
        (r"\.branch2a\.", ".conv1."),
        (r"\.branch2b\.", ".conv2."),
        (r"\.branch2c\.", ".conv3."),
        # RPN. With a feature pyramid its parameters are named after level 2 and shared by all.
        (r"^conv\.rpn(?:\.fpn2)?", f"{_RPN_HEAD}.conv"),
        (r"^rpn\.bbox\.pred(?:\.fpn2)?", f"{_RPN_HEAD}.anchor_deltas"),
        (r"^rpn\.cls\.logits(?:\.fpn2)?", f"{_RPN_HEAD}.objectness_logits"),
        # Box head and its predictor.
        (r"^bbox\.pred\.", "bbox_pred."),
        (r"^cls\.score\.", "cls_score."),
        (r"^fc6\.", "box_head.fc1."),
        (r"^fc7\.", "box_head.fc2."),
        (r"^head\.conv", "box_head.conv"),
        # Feature pyramid: "fpn_inner_res4_5_sum_lateral_w", "fpn_res4_5_sum_gn_s".
        (r"^fpn\.inner\.res(\d+)\..*?((?:\.norm)?\.\w+)$", r"fpn_lateral\1\2"),
        (r"^fpn\.res(\d+)\..*?((?:\.norm)?\.\w+)$", r"fpn_output\1\2"),
        # Mask head: "_[mask]_fcn1_w".
        (r"^\.(?:\[mask\]|mask)\.fcn(?=\d)", "mask_head.mask_fcn"),
        (r"^conv5\.mask\.", "mask_head.deconv."),
        (r"^mask\.fcn\.logits\.", "mask_head.predictor."),
    )
)


def convert_c2_detectron_names(
    weights: StateDict,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Give Caffe2 blobs the names and row order of detectron2 parameters.

    Caffe2 has the background as class 0. Here the box and mask predictors have no background rows,
    and in the class scores it comes last.

    Args:
        weights: blob name to tensor.

    Returns:
        Tensors by new name, and the blob name of each new name.

    Raises:
        ValueError: two blobs get the same name.
    """
    logger = logging.getLogger(__name__)
    logger.info("Renaming Caffe2 weights ......")
    converted: dict[str, torch.Tensor] = {}
    blob_names: dict[str, str] = {}
    for blob_name in sorted(weights):
        name = _rename_blob(blob_name)
        if name in converted:
            raise ValueError(
                f"Caffe2 blobs {blob_names[name]!r} and {blob_name!r} both become {name!r}."
            )
        blob_names[name] = blob_name
        converted[name] = _reorder_background(name, weights[blob_name])
    return converted, blob_names


def _rename_blob(blob_name: str) -> str:
    name = blob_name.replace("_", ".")
    for pattern, replacement in _CAFFE2_RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _reorder_background(name: str, blob: torch.Tensor) -> torch.Tensor:
    logger = logging.getLogger(__name__)
    if name.startswith(("bbox_pred.", "mask_head.predictor.")):
        rows = 4 if name.startswith("bbox_pred.") else 1
        logger.info("Remove the first %d rows (background) of %s", rows, name)
        return blob[rows:]
    if name.startswith("cls_score."):
        logger.info("Move the first row (background) of %s to the end", name)
        return blob.roll(-1, dims=0)
    return blob


def align_and_update_state_dicts(
    model_state_dict: StateDict, ckpt_state_dict: StateDict, c2_conversion: bool = True
) -> dict[str, torch.Tensor]:
    """Rename the entries of a checkpoint to the parameters that they most likely belong to.

    A checkpoint key fits a model key that equals it or ends with a dot and it; of several that fit,
    a model key takes the longest. Keys that differ in shape are skipped with a warning.

    Args:
        model_state_dict: the model's state dict; its names may be longer (nested deeper).
        ckpt_state_dict: tensors by name.
        c2_conversion: the checkpoint comes from Caffe2 and has to be renamed first.

    Returns:
        The checkpoint's tensors by model key; those without a partner keep their name, so that
        loading reports them.

    Raises:
        ValueError: a checkpoint key is the best match of two model keys.
    """
    logger = logging.getLogger(__name__)
    if c2_conversion:
        ckpt_state_dict, stored_names = convert_c2_detectron_names(ckpt_state_dict)
    else:
        stored_names = {key: key for key in ckpt_state_dict}

    matches: dict[str, str] = {}  # checkpoint key -> model key
    for model_key in sorted(model_state_dict):
        ckpt_key = next((end for end in _name_ends(model_key) if end in ckpt_state_dict), None)
        if ckpt_key is None:
            continue
        model_shape = tuple(model_state_dict[model_key].shape)
        ckpt_shape = tuple(ckpt_state_dict[ckpt_key].shape)
        if model_shape != ckpt_shape:
            logger.warning(
                "Shape of %s in checkpoint is %s, while shape of %s in model is %s: it will not be "
                "loaded. Please check that this is desired.",
                ckpt_key,
                ckpt_shape,
                model_key,
                model_shape,
            )
            continue
        if ckpt_key in matches:
            logger.error(
                "Checkpoint key %s matches at least two keys of the model: %s and %s.",
                ckpt_key,
                matches[ckpt_key],
                model_key,
            )
            raise ValueError("Cannot match one checkpoint key to multiple keys in the model.")
        matches[ckpt_key] = model_key

    if matches:
        logger.info(
            _describe_matches(
                {model_key: stored_names[ckpt_key] for ckpt_key, model_key in matches.items()},
                model_state_dict,
            )
        )
    else:
        logger.warning("No weights in checkpoint matched with model.")
    return {matches.get(key, key): value for key, value in ckpt_state_dict.items()}


def _name_ends(name: str) -> Iterator[str]:
    """``"a.b.c"`` gives ``"a.b.c"``, ``"b.c"``, ``"c"``."""
    while True:
        yield name
        _, dot, name = name.partition(".")
        if not dot:
            return


def _describe_matches(stored_names: Mapping[str, str], model_state_dict: StateDict) -> str:
    """A table with a row for each module: its name, the names in the file, the shapes.

    Args:
        stored_names: name in the file by model key.
        model_state_dict: for the shapes.
    """
    model_keys = sorted(stored_names)
    root = _common_module(model_keys)
    by_module: dict[str, list[str]] = defaultdict(list)
    for key in model_keys:
        by_module[key.rpartition(".")[0]].append(key)
    rows = []
    for keys in by_module.values():
        shapes = " ".join(str(tuple(model_state_dict[key].shape)).replace(" ", "") for key in keys)
        stored = _group_names([stored_names[key] for key in keys])
        rows.append((_group_names([key[len(root) :] for key in keys]), stored, shapes))
    table = tabulate(
        rows, headers=["Names in Model", "Names in Checkpoint", "Shapes"], tablefmt="pipe"
    )
    return (
        f"Following weights matched with {f'submodule {root[:-1]}' if root else 'model'} - "
        f"Total num: {len(model_keys)}\n{table}"
    )


def _common_module(names: Iterable[str]) -> str:
    """``["a.b.x.w", "a.b.y"]`` gives ``"a.b."``; nothing in common gives ``""``."""
    parts = _common_start([name.split(".")[:-1] for name in names])
    return "".join(part + "." for part in parts)


def _group_names(names: Sequence[str]) -> str:
    """``["conv.bias", "conv.weight"]`` gives ``"conv.{bias,weight}"``."""
    if len(names) == 1:
        return names[0]
    prefix = _longest_common_prefix_str(names)
    return prefix + "{" + ",".join(name[len(prefix) :] for name in names) + "}"


def _longest_common_prefix_str(names: Sequence[str]) -> str:
    """Longest string with which all names begin, character by character."""
    return "".join(_common_start(names))


def _common_start(sequences: Iterable[Sequence[str]]) -> list[str]:
    # The columns of the sequences, as long as a column holds one value.
    columns = zip(*sequences, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
