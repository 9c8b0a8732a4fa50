from __future__ import annotations

import math

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from surgecollapse.tuning.space import grid, parse_domain, parse_space, parse_words, points, read_space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.8..0.98", FloatDistribution(0.8, 0.98)),
        ("1e-4..1e-2:log", FloatDistribution(1e-4, 1e-2, log=True)),
        ("0.1..0.5:step=0.1", FloatDistribution(0.1, 0.5, step=0.1)),
        ("0..1.0", FloatDistribution(0.0, 1.0)),
        ("-1.5..1", FloatDistribution(-1.5, 1.0)),
        ("16..256", IntDistribution(16, 256)),
        ("16..256:log", IntDistribution(16, 256, log=True)),
        ("10..33:step=10", IntDistribution(10, 30, step=10)),
        ("1_000..2_000", IntDistribution(1_000, 2_000)),
        ("rigl,gmp", CategoricalDistribution(("rigl", "gmp"))),
        ("64, 128", CategoricalDistribution((64, 128))),
        ("true,false", CategoricalDistribution((True, False))),
        ("[64,64],[128,128]", CategoricalDistribution(("[64, 64]", "[128, 128]"))),
        (["a", None, 2], CategoricalDistribution(("a", None, 2))),
        ({"low": 1e-4, "high": 1e-2, "log": True}, FloatDistribution(1e-4, 1e-2, log=True)),
        ({"low": 2, "high": 8, "step": 2}, IntDistribution(2, 8, step=2)),
        (FloatDistribution(0, 1), FloatDistribution(0, 1)),
    ],
)
def test_domain_is_read(text, expected):
    assert parse_domain("x", text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing is given"),
        ("0.9", "one value is nothing to search"),
        ("0.9..0.8", r"lower end must be below the upper one; write 0\.8\.\.0\.9"),
        ("0.5..0.5", "lower end must be below"),
        ("0..1:log", "must lie above 0"),
        ("1..9:logg", "unknown option 'logg'.*Did you mean 'log'"),
        ("1..9:step", "write step=0.1"),
        ("1..9:log=2", "write log"),
        ("1..9:step=x", "'x' is not a number"),
        ("1..9:step=0", "step must be above 0"),
        ("1..9:step=9", "at most the width"),
        ("1.0..9.0:log:step=1.0", "exclude each other"),
        ("a..b", "'a' is not a number"),
        ("0..inf", "must be finite"),
        ("a,a", "given twice"),
        ([], "nothing is given"),
        ({"low": 1}, "expected numbers under low and high"),
        ({"low": 1, "high": True}, "expected numbers"),
        ({"low": 1, "high": 2, "stpe": 1}, "unknown key 'stpe'.*Did you mean 'step'"),
        (3.0, "expected a range"),
    ],
)
def test_mistake_in_a_domain_is_one_line_with_the_name(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_domain("depth", text)
    assert "\n" not in str(caught.value)
    assert "search depth" in str(caught.value)


def test_words_are_split_at_the_first_sign():
    assert parse_words(["a=1..9", "b", "c=x=1,y"]) == {"a": "1..9", "b": None, "c": "x=1,y"}
    with pytest.raises(ValueError, match="a is given twice"):
        parse_words(["a=1..2", "a"])
    with pytest.raises(ValueError, match="expected NAME=DOMAIN"):
        parse_words(["=1..2"])
    with pytest.raises(ValueError, match="the search space is empty"):
        parse_space({})


def test_space_file_has_sections_and_dotted_names(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(
        'sparsity = "0.8..0.98"\n"policy.floor" = "0.1..0.6"\n[optimizer]\nlr = {low=1e-4, high=1e-2, log=true}\n'
    )
    found = parse_space(read_space(path))
    assert list(found) == ["sparsity", "policy.floor", "optimizer.lr"]
    assert found["optimizer.lr"] == FloatDistribution(1e-4, 1e-2, log=True)
    path.write_text("a = ")
    with pytest.raises(ValueError, match="is not a TOML file"):
        read_space(path)
    with pytest.raises(ValueError, match="cannot read the search space"):
        read_space(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "text", ["0.8..0.98", "1e-4..1e-2:log", "0.1..0.5:step=0.1", "16..256", "16..256:log", "2..4", "a,b"]
)
def test_points_of_a_grid_lie_in_the_domain_and_hold_its_ends(text):
    domain = parse_domain("x", text)
    found = points(domain)
    assert all(domain._contains(domain.to_internal_repr(value)) for value in found)
    assert len(set(found)) == len(found)
    if not isinstance(domain, CategoricalDistribution):
        assert math.isclose(found[0], domain.low)
        assert math.isclose(found[-1], domain.high)


def test_grid_is_the_product():
    found = grid(parse_space({"a": "1..3", "b": "x,y"}))
    assert found == [{"a": a, "b": b} for a in (1, 2, 3) for b in ("x", "y")]
