"""Layer lists: what is read, and that what cannot be read costs next to nothing and is said in one short line."""

import time
import tracemalloc

import pytest

from surgery.console.errors import AlphaError, LayerRangeError
from surgery.residual.layers import MAX_LENGTH, format_layers, parse_layers
from surgery.residual.operator import check_alpha

N_LAYERS = 8


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("all", tuple(range(N_LAYERS))),
        (" 3, 5,7 - 7 ,3", (3, 5, 7)),
        ("2-4,0", (0, 2, 3, 4)),
        (6, (6,)),
        ([7, 4.0, 7], (4, 7)),
        ("0-7," * (MAX_LENGTH // 4), tuple(range(N_LAYERS))),
    ],
)
def test_layers_are_read_ascending_and_each_once(spec, layers):
    assert parse_layers(spec, N_LAYERS) == layers
    assert parse_layers(format_layers(layers), N_LAYERS) == layers


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("0-99", "layer 8-99 is outside the model: it has 8 layers, 0..7"),
        ("7-8", "layer 8 is outside"),
        ("9-10,8,4", "layer 8, 9-10 is outside"),
        ([3, -1], "layer -1 is outside"),
        (list(range(8, 100)), "layer 8, 9, 10, 11 and 88 more is outside"),
        ("0-999999999", "layer 8-999999999 is outside"),
        ("9" * 5000, "longer than"),
        ("9" * 4000, "cannot read"),
        ("٣", "cannot read"),
        pytest.param(10**5000, "not a layer number", id="digits"),
        pytest.param([10**5000], "not a layer number", id="digits in a list"),
        (float("inf"), "not a layer number"),
        ([1, float("-inf")], "not a layer number"),
        (float("nan"), "not a layer number"),
        ([2.5], "not a layer number"),
        (["3"], "not a layer number"),
        (True, "not a layer number"),
        (None, "not a layer number"),
        ({"a": 1}, "not a layer number"),
        ([[1]], "not a layer number"),
        ("5-3", "runs backwards"),
        ("x" * 4000, "cannot read"),
        ([], "is empty"),
        (" , ", "is empty"),
        ([1] * (MAX_LENGTH + 1), "longer than"),
        ("0-4096," * 5000, "longer than"),
    ],
)
def test_what_is_no_layer_list_of_the_model_is_one_short_line(spec, words):
    with pytest.raises(LayerRangeError, match=words) as caught:
        parse_layers(spec, N_LAYERS)
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0-4096,", "0-7,", "1,", "0-9," * 3])
def test_the_longest_text_costs_milliseconds_and_little_memory(text):
    tracemalloc.start()
    begun = time.perf_counter()
    for spec in (text * 5000, (text * 5000)[:MAX_LENGTH]):
        try:
            parse_layers(spec, N_LAYERS)
        except LayerRangeError:
            continue
    taken, (_, most) = time.perf_counter() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1 and most < 4 * 2**20  # 10 ms and 0.3 MB on an idle core, traced


@pytest.mark.parametrize(
    "alpha", [pytest.param(10**5000, id="digits"), 10**400, float("inf"), float("nan"), "1", None, True]
)
def test_what_is_no_finite_strength_is_one_short_line(alpha):
    with pytest.raises(AlphaError, match="finite number") as caught:
        check_alpha(alpha)
    assert len(str(caught.value)) < 250
    assert check_alpha(2) == 2.0
