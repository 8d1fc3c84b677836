"""What differs between nuScenes and Lyft Level 5."""

from __future__ import annotations

from dataclasses import dataclass

LYFT_VEHICLES = ("bus", "car", "construction_vehicle", "trailer", "truck")
"""Categories of Lyft that count as vehicles, in any spelling with spaces or capitals."""


@dataclass(frozen=True)
class Source:
    """A dataset with the tables of nuScenes.

    Attributes:
        name: of the converted dataset.
        observed: key frames of a window up to the present.
        future: key frames after it.
        stride: of the key frames that are kept.
        frame_dt: seconds between kept frames.
        hidden_tokens: visibility tokens whose annotations are no labels.
    """

    name: str
    observed: int
    future: int
    stride: int
    frame_dt: float
    hidden_tokens: tuple[str, ...]

    @property
    def window(self) -> int:
        """Consecutive key frames that a clip is made from."""
        return self.observed + self.future

    @property
    def kept(self) -> range:
        """Numbers of the kept frames in the window; the present is one of them."""
        return range((self.observed - 1) % self.stride, self.window, self.stride)

    @property
    def kept_observed(self) -> int:
        """Kept frames up to the present."""
        return sum(number < self.observed for number in self.kept)

    def is_vehicle(self, category: str) -> bool:
        """Whether annotations of a category are labels."""
        if self.name == LYFT.name:
            return category.lower().replace(" ", "_") in LYFT_VEHICLES
        return "vehicle" in category


NUSCENES = Source(
    "nuscenes_bev", observed=3, future=4, stride=1, frame_dt=0.5, hidden_tokens=("1",)
)
LYFT = Source("lyft_bev", observed=5, future=10, stride=2, frame_dt=0.4, hidden_tokens=())
SOURCES = {"nuscenes": NUSCENES, "lyft": LYFT}
