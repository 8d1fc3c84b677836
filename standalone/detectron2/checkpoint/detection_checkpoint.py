"""A checkpointer that reads the file formats of the detection model zoos."""

import pickle
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from .c2_model_loading import align_and_update_state_dicts


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer with model zoo formats, addresses and name matching.

    Files ending in ``.pkl`` are unpickled, which runs code: load only files that you trust.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: its state dict is saved under ``"model"``; a data-parallel wrapper is removed.
            save_dir: directory of the checkpoints; empty for a checkpointer that only loads.
            save_to_disk: None lets only the main process write.
            checkpointables: objects with ``state_dict``/``load_state_dict``, saved under their
                keyword.
        """
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._match_names = False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a checkpoint from a file or an address.

        Args:
            path: empty to start from scratch. ``?matching_heuristics=True`` behind it matches
                parameters by the longest common end of their names.
            checkpointables: which of the registered objects to load; None for all in the file.

        Returns:
            What else is in the file.

        Raises:
            ValueError: any other query behind the path.
            URLError: the address cannot be reached.
        """
        file, _, query = (path or "").partition("?")
        options = parse_qs(query)
        match_names = options.pop("matching_heuristics", ["False"]) == ["True"]
        if options:
            raise ValueError(
                f"Unsupported query {options} in checkpoint path {path!r}; only "
                "'matching_heuristics=True' is known."
            )
        try:
            if file:
                file = self.path_manager.get_local_path(file)
        except URLError as error:
            error.add_note(
                f"The checkpoint {path!r} cannot be downloaded. Without a network, fetch the file "
                "elsewhere and give the path of the local copy."
            )
            raise
        # _load_file only gets the file name from the base class, hence the attribute.
        self._match_names = match_names
        try:
            return super().load(file, checkpointables)
        finally:
            self._match_names = False

    def _load_file(self, f: str) -> dict[str, Any]:
        """Read a file into ``{"model": state dict, ...}``; see :class:`DetectionCheckpointer`."""
        checkpoint = self._read_pickle(f) if f.endswith(".pkl") else super()._load_file(f)
        if not isinstance(checkpoint, dict):
            raise TypeError(
                f"Checkpoint {f} holds a {type(checkpoint).__name__}; expected a dictionary with "
                "the key 'model', or a state dict."
            )
        if "model" not in checkpoint:
            checkpoint = {"model": checkpoint}
        if self._match_names:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _read_pickle(self, file: str) -> Any:
        with self.path_manager.open(file, "rb") as stream:
            # Model zoo files were written by Python 2, whose strings are bytes.
            data = pickle.load(stream, encoding="latin1")
        if not isinstance(data, dict):
            return data
        if "model" in data and "__author__" in data:
            self.logger.info("Reading a file from '%s'", data["__author__"])
            return data
        # Caffe2: detection models keep their arrays under "blobs", ImageNet models at the top.
        blobs = data.get("blobs", data)
        blobs = {name: blob for name, blob in blobs.items() if not name.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        incompatible = super()._load_model(checkpoint)
        # Pixel statistics come from the config, and old files lack them.
        incompatible.missing_keys[:] = [
            key for key in incompatible.missing_keys if key not in ("pixel_mean", "pixel_std")
        ]
        # Old files hold anchors, which are now computed when the model is built.
        incompatible.unexpected_keys[:] = [
            key
            for key in incompatible.unexpected_keys
            if "anchor_generator.cell_anchors" not in key
        ]
        return incompatible
