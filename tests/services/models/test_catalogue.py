from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from falaj.errors import Invalid
from falaj.services.models.catalogue import CATALOGUE, effective, entry
from falaj.services.models.kinds import CatalogueName, ModelSpec
from falaj.services.models.packages import fill


def test_the_names_of_the_kind_and_of_the_catalogue_are_the_same() -> None:
    assert set(get_args(CatalogueName)) == set(CATALOGUE)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_entry_is_complete(name: str) -> None:
    weights = effective(ModelSpec.model_validate({"catalogue": name}))
    assert weights.licence
    assert weights.languages
    if weights.format == "gguf":
        assert weights.size_bytes
        assert len(weights.sha256) == 64
        assert weights.filename.endswith(".gguf")
        assert weights.sources.hub
        for source in weights.sources.packages:
            assert fill(source.member, source.parts) != fill(source.member, 1)


def test_a_stored_declaration_still_takes_its_fields_from_the_catalogue() -> None:
    declared = ModelSpec.model_validate({"catalogue": "multilingual-e5-small"})
    stored = ModelSpec.model_validate(declared.model_dump(mode="json"))
    assert effective(stored).task == "embeddings"
    assert effective(stored).format == "bundled"


def test_given_fields_win_over_the_catalogue() -> None:
    weights = effective(ModelSpec.model_validate({"catalogue": "qwen2.5-coder-0.5b-instruct", "sha256": "0" * 64}))
    assert weights.sha256 == "0" * 64
    assert weights.filename == "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(Invalid, match=r"qwen2\.5-coder-1\.5b-instruct"):
        entry("qwen2.5-coder-1.5b")
    with pytest.raises(ValidationError, match="multilingual-e5-small"):
        ModelSpec.model_validate({"catalogue": "qwen"})


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"filename": "a.gguf"},
        {"sha256": "0" * 64},
        {"format": "bundled"},
        {"filename": "../a.gguf", "sha256": "0" * 64},
        {"filename": "a/b.gguf", "sha256": "0" * 64},
        {"filename": ".hidden", "sha256": "0" * 64},
        {"filename": "a.gguf", "sha256": "xyz"},
        {"filename": "a.gguf", "sha256": "0" * 64, "sources": {"hub": [{"repository": "a/b", "file": "../../etc"}]}},
        {"filename": "a.gguf", "sha256": "0" * 64, "sources": {"files": [{"file": "relative.gguf"}]}},
        {
            "filename": "a.gguf",
            "sha256": "0" * 64,
            "sources": {"packages": [{"package": "--dest=x", "version": "1", "member": "m"}]},
        },
    ],
)
def test_what_cannot_be_pulled_or_leaves_the_folder_is_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ModelSpec.model_validate(spec)
