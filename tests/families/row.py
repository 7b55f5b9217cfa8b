"""`Row`: what the tests over all families know of one. The rows are in `table`, of images in `sight`, of sounds in `hearing`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxformers.families import family_for

CLASSIFY = ("sequence-classification", "token-classification")
LABELLED = (
    *CLASSIFY,
    "image-classification",
    "image-classification-with-teacher",
    "semantic-segmentation",
    "audio-classification",
    "audio-frame-classification",
    "audio-xvector",
)  # the heads that have classes


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One family.

    Args:
      family: its `model_type`.
      config: a tiny config.json; every size in it divides by 8, so that 8 devices can share it.
      whole: the head with the most parts, for properties that are dear to check.
      variants: name -> the heads it concerns, and what to change in the config (parity).
      without: heads that variants alone check, for with this config their gradients are too large for float32 to agree in.
      brief: whether without PyTorch two of its heads are checked, the states and `whole`: the others are another family's,
        or a few lines over the same states.
      lineage: whether it stands for others in the properties that are dear to check.
      longest: tokens in the longest text it takes; None means there is no such length.
      fixed: tensors that PyTorch keeps and may save, and we compute.
      padding_looks: whether padding looks around too (at what is not defined), so that only real tokens' outputs are.
    """

    family: str
    config: Mapping[str, Any]
    whole: str | None
    variants: Mapping[str, tuple[tuple[str | None, ...], Mapping[str, Any]]]
    without: tuple[str, ...] = ()
    brief: bool = False
    lineage: bool = False
    longest: int | None = 24
    padding_looks: bool = False
    fixed: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether it takes texts alone."""
        inputs = family_for(self.family).inputs
        return "input_ids" in inputs and not {"pixel_values", "input_values"} & {*inputs}

    @property
    def heads(self) -> list[str | None]:
        """The heads to check against PyTorch."""
        return [head for head in family_for(self.family).heads if head not in self.without]

    @property
    def plain_heads(self) -> list[str | None]:
        """The heads to check without it."""
        if not self.reads and not self.lineage:
            return [self.whole]  # among whose results the states are
        return [None, self.whole] if self.brief else self.heads

    def config_for(self, head: str | None) -> dict[str, Any]:
        """The config, with three classes for the heads that have classes."""
        names = {str(i): name for i, name in enumerate(("no", "maybe", "yes"))}
        return {**self.config, "id2label": names} if head in LABELLED else dict(self.config)
