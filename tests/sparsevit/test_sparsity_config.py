from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevit.deploy import load_config
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import SparsityConfig


@given(st.lists(st.integers(0, 8), min_size=1, max_size=9).map(sorted))
def test_genes_survive_the_json_document(levels: list[int]) -> None:
    config = SparsityConfig.from_genes(levels, (len(levels),), "l2")
    again = SparsityConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.genes == tuple(levels)


@pytest.mark.parametrize(
    ("sparsity", "says"),
    [
        ([[0.5, 0.3]], "must not fall"),
        ([[0.9]], "one of 0, 0.1"),
        ([[-0.1]], "one of 0, 0.1"),
        ([[0.25]], "one of 0, 0.1"),
        ([[float("nan")]], "one of 0, 0.1"),
        ([[True]], "list of stages"),
        ([["0.5"]], "list of stages"),
        (None, "list of stages"),
        ([0.5], "list of stages"),
    ],
)
def test_documents_that_make_no_sense_say_why(sparsity: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SparsityConfig.from_dict({"sparsity": sparsity})


def test_uniform_and_dense() -> None:
    assert SparsityConfig.uniform((1, 3), 0.6).genes == (6, 6, 6, 6)
    assert SparsityConfig.dense((1, 3)).is_dense


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[]", "must be an object"),
        ('{"schema_version": 99, "sparsity": [[0.5]]}', "schema_version 99"),
        ("{}", "a config needs"),
    ],
)
def test_load_config_refuses_other_files(tmp_path, content: str, says: str) -> None:
    path = tmp_path / "best.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_config_is_bound_to_the_weights_it_was_measured_with(tmp_path) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"weights": {"sha256": "a" * 64}, "sparsity": [[0.5]]}))
    config = load_config(path)
    config.check_weights("a" * 64)
    for other in ("b" * 64, None):
        with pytest.raises(ConfigError, match="measured with the weights"):
            config.check_weights(other)
