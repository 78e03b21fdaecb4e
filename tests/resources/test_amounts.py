"""Amounts: exact sums, honest rounding, and messages that name what is wrong."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_mpi.errors import DAGError
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import (
    UNIT,
    format_amount,
    format_amounts,
    parse_amount,
    parse_cost,
    parse_resources,
    plain_number,
)

# Amounts in ten-thousandths, up to 10^9 units; numbers of that size are exact as floats too.
FIXED = st.integers(0, 10**13)
NAMES = st.text("abcdefgh_", min_size=1, max_size=5).filter(lambda name: name not in {"gpu", "memory", "ranks"})


# ---- what an amount is worth -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "fixed"),
    [
        (0, 0),
        (1, 10_000),
        (64, 640_000),
        (0.5, 5_000),
        (0.0001, 1),
        (1e-4, 1),
        (2.5, 25_000),
        (-0.0, 0),
        ("4", 40_000),
        (" 0.25 ", 2_500),
        (".5", 5_000),
        ("1e2", 1_000_000),
        ("5E-1", 5_000),
        (Decimal("0.1"), 1_000),
        (np.int64(3), 30_000),
        (np.float32(0.1), 1_000),
        (np.float64(0.1), 1_000),
    ],
)
def test_an_amount_in_ten_thousandths(amount: object, fixed: int) -> None:
    result = parse_amount("cpu", amount)
    assert result == fixed
    assert type(result) is int


@pytest.mark.parametrize(
    ("amount", "nbytes"),
    [
        (1000, 10**9),
        ("1000", 10**9),
        ("1000MB", 10**9),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("2G", 2 * 10**9),
        ("1.5TB", 15 * 10**11),
        ("1T", 10**12),
        ("3 KB", 3_000),
        ("3k", 3_000),
        ("3M", 3 * 10**6),
        ("500B", 500),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        ("1GiB", 2**30),
        ("1TiB", 2**40),
        ("100KiB", 100 * 2**10),
    ],
)
def test_memory_is_in_mb_of_a_million_bytes(amount: object, nbytes: int) -> None:
    # a ten-thousandth of a MB is 100 bytes
    assert parse_amount("memory", amount) == math.ceil(Fraction(nbytes, 100))


@given(st.integers(0, 10**15))
def test_room_for_bytes_is_rounded_up_and_by_less_than_100(nbytes: int) -> None:
    room = parse_amount("memory", f"{nbytes}B") * 100
    assert nbytes <= room < nbytes + 100


@given(FIXED)
def test_ten_thousandths_are_exact_however_they_are_written(fixed: int) -> None:
    number = Decimal(fixed) / UNIT
    assert parse_amount("cpu", number) == fixed
    assert parse_amount("cpu", f"{number:f}") == fixed
    assert parse_amount("cpu", float(number)) == fixed
    assert parse_amount("memory", number) == fixed


@given(st.lists(FIXED, max_size=50))
def test_sums_are_exact(parts: list[int]) -> None:
    # The sum of the parsed floats is the true sum, where that of the floats themselves need not be.
    assert sum(parse_amount("cpu", part / UNIT) for part in parts) == sum(parts)


def test_three_tenths_are_three_times_a_tenth() -> None:
    assert 0.1 + 0.1 + 0.1 != 0.3
    assert 3 * parse_amount("cpu", 0.1) == parse_amount("cpu", 0.3)


def test_the_noise_of_a_float_sum_is_forgiven() -> None:
    assert parse_amount("cpu", 0.1 + 0.2) == 3_000


@pytest.mark.parametrize(("amount", "fixed"), [(0, 0), (0.25, 2_500), (1, 10_000), (1.0, 10_000), (8, 80_000)])
def test_devices_are_whole_or_a_fraction_of_one(amount: float, fixed: int) -> None:
    assert parse_amount("gpu", amount) == fixed


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "memory", "gpu", "license"])
@pytest.mark.parametrize(
    ("amount", "complaint"),
    [
        (-1, "is negative"),
        (-0.5, "is negative"),
        (float("nan"), "is not a finite number"),
        (float("inf"), "is not a finite number"),
        (float("-inf"), "is not a finite number"),
        (Decimal("NaN"), "is not a finite number"),
        (True, "is not a number"),
        (None, "is not a number"),
        ([1], "is not a number"),
        (1j, "is not a number"),
        (b"1", "is not a number"),
        ("", "is not an amount"),
        ("many", "is not an amount"),
        ("-1", "is not an amount"),
        ("1,5", "is not an amount"),
        ("1 2", "is not an amount"),
        ("nan", "is not an amount"),
        ("inf", "is not an amount"),
        ("1_000", "is not an amount"),
        ("1 parsec", "has a unit that is not known"),
    ],
)
def test_a_wrong_amount_is_named_with_its_resource(name: str, amount: object, complaint: str) -> None:
    with pytest.raises(DAGError) as caught:
        parse_amount(name, amount)
    assert str(caught.value).startswith(f"{name}={amount!r} {complaint}")
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("amount", [0.00015, 0.00005, "0.33333", 1 / 3, Decimal("1.00001")])
@pytest.mark.parametrize("name", ["cpu", "gpu", "license"])
def test_finer_than_a_ten_thousandth_is_refused(name: str, amount: object) -> None:
    with pytest.raises(DAGError) as caught:
        parse_amount(name, amount)
    assert str(caught.value).startswith(f"{name}={amount!r} is finer than a ten-thousandth")


@pytest.mark.parametrize("amount", [1.5, 2.25, "1.0001"])
def test_more_than_one_device_must_be_whole(amount: object) -> None:
    with pytest.raises(DAGError) as caught:
        parse_amount("gpu", amount)
    assert str(caught.value).startswith(f"gpu={amount!r} must be a whole number of devices")


@pytest.mark.parametrize(
    ("name", "amount"),
    [("cpu", Fraction(1, 3)), ("cpu", "1e999999"), ("memory", "1e999999GB"), ("gpu", 1e-9), ("cpu", "1e5000")],
)
def test_no_error_but_dagerror_comes_out(name: str, amount: object) -> None:
    with pytest.raises(DAGError):
        parse_amount(name, amount)


def test_units_belong_to_memory() -> None:
    with pytest.raises(DAGError, match=r"^cpu='2GB' has a unit that is not known here; cpu takes no unit$"):
        parse_amount("cpu", "2GB")
    with pytest.raises(DAGError, match=r"memory='2GiBit' .* GB, TB, KiB, MiB, GiB, TiB; did you mean GiB\?$"):
        parse_amount("memory", "2GiBit")


@given(st.sampled_from(["cpu", "memory", "gpu", "license"]), st.text(max_size=10))
def test_any_text_is_an_amount_or_a_named_error(name: str, text: str) -> None:
    try:
        fixed = parse_amount(name, text)
    except DAGError as error:
        assert str(error).startswith(f"{name}={text!r} ")
    else:
        assert fixed >= 0


# ---- resources and costs -----------------------------------------------------------------------------


def test_resources_in_the_order_they_were_written() -> None:
    parsed = parse_resources({"memory": "2GB", "cpu": 0.5, "license": 2, "gpu": 0})
    assert list(parsed.items()) == [("memory", 20_000_000), ("cpu", 5_000), ("license", 20_000), ("gpu", 0)]


@pytest.mark.parametrize("resources", [None, 4, "cpu=4", ["cpu"], {("cpu", 4)}])
def test_resources_must_be_a_mapping(resources: object) -> None:
    with pytest.raises(DAGError) as caught:
        parse_resources(resources)
    assert repr(resources) in str(caught.value)
    assert "mapping" in str(caught.value)


def test_every_wrong_amount_is_named_at_once() -> None:
    with pytest.raises(DAGError) as caught:
        parse_resources({"cpu": -1, "fine": 1, "memory": "2 parsecs", "": 3, 7: 1, "ranks": 2, "gpu": 1.5})
    problems = caught.value.problems
    assert len(problems) == 6
    for problem, culprit in zip(
        problems, ["cpu=-1", "memory='2 parsecs'", "''", "7", "'ranks'", "gpu=1.5"], strict=True
    ):
        assert culprit in problem
        assert problem in str(caught.value)
    assert "fine" not in str(caught.value)


@pytest.mark.parametrize("name", ["", 7, None, ("cpu",), b"cpu"])
def test_a_resource_is_named_by_a_string(name: object) -> None:
    with pytest.raises(DAGError) as caught:
        parse_resources({name: 1})
    assert str(caught.value) == f"a resource is named by a non-empty string, not {name!r}"


def test_ranks_is_reserved() -> None:
    with pytest.raises(DAGError, match="'ranks' is reserved"):
        parse_cost({"ranks": 4})


@pytest.mark.parametrize("cost", [None, {}, {"gpu": 0}])
def test_a_cost_is_one_core_unless_it_says_otherwise(cost: dict[str, object] | None) -> None:
    assert parse_cost(cost) == {"cpu": UNIT}


def test_a_cost_may_be_nothing_at_all() -> None:
    assert parse_cost({"cpu": 0, "memory": "0GB"}) == {}


def test_a_cost_of_a_part_of_a_core_stays_that() -> None:
    assert parse_cost({"cpu": 0.25, "memory": 1}) == {"cpu": 2_500, "memory": UNIT}


@given(st.dictionaries(NAMES, st.integers(0, 100)), st.randoms(use_true_random=False))
def test_equal_costs_are_equal_in_every_way(cost: dict[str, int], random: object) -> None:
    shuffled = list(cost.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    # equal in order as well, and however they were spelled, so that they share a cost class
    assert list(parse_cost(cost).items()) == list(parse_cost({k: str(v) for k, v in shuffled}).items())
    assert all(parse_cost(cost).values())


@pytest.mark.parametrize("cost", [{"cpu": "four"}, "4", 4])
def test_a_wrong_cost_is_refused(cost: object) -> None:
    with pytest.raises(DAGError):
        parse_cost(cost)  # type: ignore[arg-type]


# ---- back to people ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fixed", "text"),
    [
        ("cpu", 0, "0"),
        ("cpu", 40_000, "4"),
        ("cpu", 100_000, "10"),
        ("cpu", 5_000, "0.5"),
        ("cpu", 1, "0.0001"),
        ("cpu", 1_000_100, "100.01"),
        ("memory", 160_000_000, "16000 MB"),
        ("memory", 5_000, "0.5 MB"),
        ("gpu", 10_000, "1"),
    ],
)
def test_amounts_as_people_read_them(name: str, fixed: int, text: str) -> None:
    assert format_amount(name, fixed) == text


@given(st.sampled_from(["cpu", "memory", "license"]), FIXED)
def test_what_is_written_reads_back(name: str, fixed: int) -> None:
    text = format_amount(name, fixed)
    assert "E" not in text
    assert parse_amount(name, text) == fixed


def test_amounts_on_one_line() -> None:
    assert format_amounts({"cpu": 40_000, "memory": 20_000_000}) == "cpu=4, memory=2000 MB"
    assert format_amounts({}) == "nothing"


@given(FIXED)
def test_a_plain_number_is_an_int_where_it_can_be(fixed: int) -> None:
    number = plain_number(fixed)
    assert isinstance(number, int) == (fixed % UNIT == 0)
    assert parse_amount("cpu", number) == fixed


# ---- capabilities ------------------------------------------------------------------------------------

GPUS = (Device(index=0, uuid="a"), Device(index=1, uuid="b"))


def test_what_a_rank_offers_is_written_as_users_write_it() -> None:
    capability = Capability(rank=1, host="n1", host_amounts={"cpu": 75_000, "memory": 160_000_000}, devices=GPUS)
    offered = capability.offered()
    assert offered == {"cpu": 7.5, "memory": 16_000, "gpu": 2}
    assert [type(amount) for amount in offered.values()] == [float, int, int]


def test_a_rank_without_devices_offers_no_gpu() -> None:
    assert Capability(rank=0, host="n1", host_amounts={"cpu": UNIT}).offered() == {"cpu": 1}


def test_what_is_registered_wins_and_the_ranks_own_wins_over_the_hosts() -> None:
    capability = Capability(
        rank=0,
        host="n1",
        host_amounts={"cpu": 80_000, "memory": 10_000},
        devices=GPUS,
        host_registered={"cpu": 40_000, "gpu": 10_000, "license": 20_000},
        registered={"cpu": 20_000, "scratch": 5_000},
    )
    assert capability.offered() == {"cpu": 2, "memory": 1, "gpu": 1, "license": 2, "scratch": 0.5}
    assert capability.host_amounts == {"cpu": 80_000, "memory": 10_000}


def test_capabilities_share_nothing() -> None:
    one, other = (Capability(rank=rank, host="n1", host_amounts={}) for rank in range(2))
    one.registered["license"] = UNIT
    one.host_registered["license"] = UNIT
    assert other.registered == {}
    assert other.host_registered == {}


def test_a_device_cannot_change() -> None:
    with pytest.raises(AttributeError):
        GPUS[0].index = 3  # type: ignore[misc]
