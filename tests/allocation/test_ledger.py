"""The ledger: what is pooled, what is a rank's own, and that the books balance exactly after any events."""

from __future__ import annotations

import random

import pytest

from handoff_mpi.allocation import MEMORY, ClusterView, Ledger
from handoff_mpi.allocation.invariants import check_invariants
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources import Capability, Device
from handoff_mpi.resources.amounts import UNIT, parse_cost


def amounts(**units):
    return {name: round(count * UNIT) for name, count in units.items()}


def rank(number, host="h", cpu=4, devices=(), **options):
    """The capability of a rank; ``devices`` are uuids in the order in which it numbers them."""
    seen = tuple(Device(index, uuid) for index, uuid in enumerate(devices))
    return Capability(number, host, amounts(cpu=cpu), seen, **options)


def ledger_of(*capabilities, slots=4, job=None):
    return Ledger(capabilities, {each.rank: slots for each in capabilities}, job)


class Books:
    """A ledger that is checked after every step."""

    def __init__(self, *capabilities, **options):
        self.ledger = ledger_of(*capabilities, **options)

    def claim(self, on, **units):
        claim = self.ledger.claim(self.ledger.request_class(amounts(**units)), on)
        check_invariants(self.ledger)
        return claim

    def release(self, claim):
        self.ledger.release(claim)
        check_invariants(self.ledger)

    def update(self, on, **units):
        self.ledger.update(on, amounts(**units))
        check_invariants(self.ledger)

    def fits(self, on, **units):
        return ClusterView(self.ledger).fits(self.ledger.request_class(amounts(**units)), on)

    def could_fit(self, **units):
        return self.ledger.feasibility.could_fit(self.ledger.request_class(amounts(**units)))

    def devices(self, claim):
        return tuple(index for index, _ in self.ledger.claimed_devices(claim))


# -- whose it is ----------------------------------------------------------------------------------------


def test_what_is_detected_on_a_host_is_counted_once_however_many_ranks_share_it():
    books = Books(rank(1, cpu=4), rank(2, cpu=4), rank(3, cpu=4))
    books.claim(1, cpu=3)
    assert books.fits(2, cpu=1)
    assert not books.fits(2, cpu=2)
    books.claim(2, cpu=1)
    assert not books.fits(3, cpu=0.1)


def test_of_what_ranks_of_a_host_detect_the_most_counts():
    books = Books(rank(1, cpu=2), rank(2, cpu=8), rank(3, cpu=4))
    assert books.fits(1, cpu=8)
    assert not books.fits(1, cpu=8.1)


def test_a_host_does_not_lend_to_another():
    books = Books(rank(1, "a", cpu=2), rank(2, "b", cpu=2))
    assert not books.could_fit(cpu=3)
    books.claim(1, cpu=2)
    assert books.fits(2, cpu=2)


def test_what_is_registered_for_a_rank_is_its_own():
    books = Books(rank(1, registered=amounts(license=1)), rank(2))
    assert books.fits(1, license=1)
    assert not books.fits(2, license=1)
    books.claim(1, license=1)
    assert not books.fits(1, license=1)
    assert books.fits(1, cpu=1)


def test_what_is_registered_for_a_rank_takes_the_place_of_its_share_of_the_host():
    books = Books(rank(1, cpu=4, registered=amounts(cpu=2)), rank(2, cpu=4))
    books.claim(1, cpu=2)
    assert not books.fits(1, cpu=1)
    assert books.fits(2, cpu=4)


@pytest.mark.parametrize(
    "order",
    [(1, 2), (2, 1)],
)
def test_what_is_registered_for_a_host_goes_before_what_its_ranks_detect(order):
    capabilities = {1: rank(1, cpu=8, host_registered=amounts(cpu=4)), 2: rank(2, cpu=8)}
    books = Books(*[capabilities[number] for number in order])
    assert books.fits(1, cpu=4)
    assert not books.fits(1, cpu=5)


def test_pools_of_the_job_are_shared_by_all_hosts():
    books = Books(rank(1, "a"), rank(2, "b"), job=amounts(license=2))
    one = books.claim(1, cpu=1, license=1)
    assert books.fits(2, license=1)
    assert not books.fits(2, license=2)
    assert books.could_fit(license=2)
    books.release(one)
    assert books.fits(2, license=2)


def test_what_nobody_offers_fits_nowhere():
    books = Books(rank(1))
    assert not books.could_fit(licence=1)
    assert not books.fits(1, licence=1)


def test_supply_counts_each_pool_and_each_device_once():
    books = Books(rank(1, "a", devices="xy"), rank(2, "a", devices="y"), rank(3, "b"), job=amounts(license=5))
    assert books.ledger.feasibility.supply() == amounts(cpu=8, gpu=2, license=5)


def test_the_largest_host_is_named_with_what_it_offers():
    books = Books(rank(1, "a", cpu=64), rank(2, "b", cpu=4, devices="x"), job=amounts(license=5))
    assert books.ledger.feasibility.largest() == "cpu=4, gpu=1, license=5 (b)"


# -- claims ---------------------------------------------------------------------------------------------


def test_sums_are_exact():
    books = Books(rank(1, cpu=1), slots=20)
    tenth = parse_cost({"cpu": 0.1})
    cost = books.ledger.request_class(tenth)
    claims = [books.ledger.claim(cost, 1) for _ in range(10)]
    assert not books.fits(1, cpu=0.0001)
    for claim in claims:
        books.release(claim)
    assert books.fits(1, cpu=1)


def test_each_claim_takes_a_slot_and_gives_it_back():
    books = Books(rank(1), slots=2)
    one, two = books.claim(1), books.claim(1)
    assert {one.slot, two.slot} == {0, 1}
    assert not books.fits(1)
    assert books.ledger.idle_slots == 0
    books.release(one)
    assert books.claim(1).slot == one.slot


def test_a_claim_that_does_not_fit_is_refused_and_takes_nothing():
    books = Books(rank(1, cpu=4), job=amounts(license=1))
    for units in ({"cpu": 5}, {"license": 2}, {"gpu": 1}):
        with pytest.raises(AllocationError, match="no room"):
            books.claim(1, **units)
    check_invariants(books.ledger)
    books.claim(1, cpu=4, license=1)


def test_no_rank_is_claimed_that_does_not_exist_or_is_lost():
    books = Books(rank(1), rank(2))
    books.ledger.remove(2)
    for number in (2, 3):
        with pytest.raises(AllocationError, match=f"no rank {number}"):
            books.claim(number, cpu=1)


def test_a_class_may_need_more_than_it_takes():
    """The rank of a collocated group must be able to hold each of its members, one by one."""
    books = Books(rank(1, "a", cpu=2), rank(2, "b", cpu=8))
    cost = books.ledger.request_class(amounts(cpu=1), need=amounts(cpu=4))
    assert not ClusterView(books.ledger).fits(cost, 1)
    assert books.ledger.best(cost).pick(cost) == 2
    claims = [books.ledger.claim(cost, 2) for _ in range(4)]
    assert not books.fits(2, cpu=5)
    assert books.fits(1, cpu=2)
    assert len(claims) == 4


# -- devices --------------------------------------------------------------------------------------------


def test_whole_devices_are_exclusive():
    books = Books(rank(1, devices="xyz"), rank(2, devices="xyz"))
    two = books.claim(1, gpu=2)
    one = books.claim(2, gpu=1)
    assert sorted([*books.devices(two), *books.devices(one)]) == [0, 1, 2]
    assert not books.fits(1, gpu=0.1)
    books.release(two)
    assert books.fits(2, gpu=2)


def test_fractions_share_a_device_and_fill_it_before_they_open_another():
    books = Books(rank(1, devices="xy"))
    books.release(books.claim(1, gpu=2))
    claims = [books.claim(1, gpu=0.5) for _ in range(3)]
    assert len({books.devices(claim) for claim in claims[:2]}) == 1
    assert books.devices(claims[2]) != books.devices(claims[0])
    assert not books.fits(1, gpu=1)
    assert books.fits(1, gpu=0.5)
    assert not books.fits(1, gpu=0.6)


def test_the_parts_left_of_devices_make_no_device():
    books = Books(rank(1, devices="xyz"))
    for _ in range(3):
        books.claim(1, gpu=0.6)
    assert not books.fits(1, gpu=1)
    assert not books.fits(1, gpu=0.5)
    assert books.fits(1, gpu=0.4)


def test_a_device_has_the_index_by_which_its_rank_numbers_it():
    books = Books(rank(1, devices="xy"), rank(2, devices="yx"))
    one, two = books.claim(1, gpu=1), books.claim(2, gpu=1)
    assert {"xy"[index] for index in books.devices(one)} | {"yx"[index] for index in books.devices(two)} == {"x", "y"}


def test_a_rank_is_given_only_devices_it_sees():
    books = Books(rank(1, devices="x"), rank(2, devices="y"), rank(3))
    assert not books.could_fit(gpu=2)
    assert not books.fits(3, gpu=0.5)
    books.claim(1, gpu=1)
    assert not books.fits(1, gpu=0.5)
    assert books.fits(2, gpu=1)


def test_a_device_stays_with_the_rank_that_used_it_last():
    books = Books(rank(1, devices="xy"), rank(2, devices="xy"))
    one, two = books.claim(1, gpu=1), books.claim(2, gpu=1)
    books.release(one)
    books.release(two)
    assert books.devices(books.claim(2, gpu=1)) == books.devices(two)
    assert books.devices(books.claim(1, gpu=1)) == books.devices(one)


def test_a_rank_that_used_a_free_device_is_picked_for_it():
    books = Books(rank(1, devices="x"), rank(2, devices="x"))
    cost = books.ledger.request_class(amounts(gpu=1))
    books.release(books.claim(2, gpu=1))
    assert books.ledger.best(cost).pick(cost) == 2


def test_devices_registered_for_a_rank_are_its_own_and_hide_those_of_the_host():
    books = Books(rank(1, devices="x", registered=amounts(gpu=2)), rank(2, devices="x"))
    assert books.devices(books.claim(1, gpu=2)) == (0, 1)
    assert books.fits(2, gpu=1)
    assert not books.fits(2, gpu=2)


# -- updates --------------------------------------------------------------------------------------------


def test_an_update_changes_what_one_rank_has_and_keeps_what_it_does_not_name():
    books = Books(rank(1, cpu=4, registered=amounts(license=1)), rank(2, cpu=4))
    books.update(1, cpu=8)
    books.update(1, memory=100)
    assert books.fits(1, cpu=8, memory=100, license=1)
    assert not books.fits(2, cpu=5)


def test_claims_move_along_with_an_update_and_the_host_has_its_share_back():
    books = Books(rank(1, cpu=4), rank(2, cpu=4))
    claim = books.claim(1, cpu=3)
    books.update(1, cpu=5)
    assert books.fits(1, cpu=2) and not books.fits(1, cpu=3)
    assert books.fits(2, cpu=4)
    books.release(claim)
    assert books.fits(1, cpu=5)
    assert not books.fits(2, cpu=5)


def test_an_update_below_what_is_claimed_lets_nothing_in_until_enough_is_released():
    books = Books(rank(1, cpu=4))
    one, two = books.claim(1, cpu=2), books.claim(1, cpu=2)
    books.update(1, cpu=3)
    books.release(one)
    assert books.fits(1, cpu=1) and not books.fits(1, cpu=2)
    books.update(1, cpu=1)
    assert not books.fits(1, cpu=1)
    books.release(two)
    assert books.fits(1, cpu=1) and not books.fits(1, cpu=2)


def test_devices_claimed_before_an_update_go_back_to_the_host():
    books = Books(rank(1, devices="x"), rank(2, devices="x"))
    claim = books.claim(1, gpu=1)
    books.update(1, gpu=0)
    assert not books.fits(1, gpu=1)
    assert not books.fits(2, gpu=1)
    books.release(claim)
    assert books.fits(2, gpu=1)
    assert not books.fits(1, gpu=1)


def test_own_devices_that_are_in_use_stay_so_through_updates():
    books = Books(rank(1, registered=amounts(gpu=2)))
    claim = books.claim(1, gpu=2)
    books.update(1, gpu=1)
    books.update(1, gpu=3)
    assert books.fits(1, gpu=1)
    assert not books.fits(1, gpu=2)
    books.release(claim)
    assert books.fits(1, gpu=3)


def test_a_device_claimed_before_an_update_is_found_again_once_it_is_released():
    books = Books(rank(1, devices="x"), rank(2, devices="x"))
    cost = books.ledger.request_class(amounts(gpu=1))
    claim = books.claim(1, gpu=1)
    books.update(1, gpu=0)
    assert books.ledger.best(cost) is None
    books.release(claim)
    assert books.ledger.best(cost) is not None


@pytest.mark.parametrize("number", [2, 9])
def test_an_update_of_a_rank_that_is_lost_or_unknown_is_refused(number):
    books = Books(rank(1), rank(2))
    books.ledger.remove(2)
    with pytest.raises(AllocationError, match=f"rank {number} takes no part"):
        books.update(number, cpu=1)


def test_a_lost_rank_offers_nothing_until_it_is_back():
    books = Books(rank(1, "a"), rank(2, "b", cpu=8))
    books.ledger.remove(2)
    books.ledger.remove(2)
    assert not books.could_fit(cpu=8)
    assert books.ledger.feasibility.supply() == amounts(cpu=4)
    books.ledger.restore(2)
    check_invariants(books.ledger)
    assert books.fits(2, cpu=8)


# -- the dumb twin --------------------------------------------------------------------------------------

HOSTS = {1: ("a", "xy"), 2: ("a", "yx"), 3: ("a", "x"), 4: ("b", "z"), 5: ("b", "")}
SLOTS = {1: 1, 2: 2, 3: 2, 4: 3, 5: 1}
CLASSES = [
    {"amounts": amounts(cpu=1)},
    {"amounts": amounts(cpu=0.3)},
    {"amounts": amounts(cpu=3, memory=50)},
    {"amounts": amounts(license=1)},
    {"amounts": amounts(gpu=1)},
    {"amounts": amounts(gpu=2)},
    {"amounts": amounts(cpu=1, gpu=0.4)},
    {"amounts": {}},
    {"amounts": amounts(cpu=1), "rank": 2},
    {"amounts": amounts(gpu=1), "host": "b"},
    {"amounts": amounts(cpu=1), "avoid": 1},
    {"amounts": amounts(gpu=1), "avoid_hosts": frozenset("a")},
    {"amounts": amounts(cpu=1), "avoid_hosts": frozenset("ab")},
    {"amounts": amounts(cpu=1), "need": amounts(cpu=5)},
]
PLAIN_UPDATES = [amounts(cpu=0), amounts(cpu=2), amounts(cpu=6), amounts(memory=10)]
DEVICE_UPDATES = [amounts(gpu=0), amounts(gpu=1), amounts(gpu=2, memory=100)]
KINDS = ["claim"] * 5 + ["release"] * 4 + ["update"] * 2 + ["remove", "restore"]


class Twin:
    """The answers that the ledger must give, each derived from scratch from capabilities, registrations and claims."""

    def __init__(self):
        self.host = amounts(cpu=4, memory=100)
        self.job = amounts(license=2)
        self.registered = {number: {} for number in HOSTS}
        self.alive = set(HOSTS)
        self.claims = []

    def capacity(self, number, name):
        return self.registered[number].get(name, self.host.get(name, 0))

    def free(self, number, name):
        """Of a resource that is no device: what is left of the rank's own, or of its host's."""
        if name in self.job:
            return self.job[name] - sum(claim.cost.amounts.get(name, 0) for claim in self.claims)
        if name in self.registered[number]:
            sharers = {number}
        else:
            host = HOSTS[number][0]
            sharers = {each for each in HOSTS if HOSTS[each][0] == host and name not in self.registered[each]}
        taken = sum(claim.cost.amounts.get(name, 0) for claim in self.claims if claim.rank in sharers)
        return self.capacity(number, name) - taken

    def visible(self, number):
        """The devices a rank sees: its own, or its host's."""
        if "gpu" in self.registered[number]:
            return [f"rank{number}-{index}" for index in range(self.registered[number]["gpu"] // UNIT)]
        return list(HOSTS[number][1])

    def left_of(self, uuid):
        return UNIT - sum(part for claim in self.claims for each, part in claim.devices if each == uuid)

    def could_hold(self, number, need):
        for name, amount in need.items():
            if name == "gpu":
                most = len(self.visible(number)) * UNIT
            elif name in self.job:
                most = self.job[name]
            else:
                most = self.capacity(number, name)
            if amount > most:
                return False
        return True

    def may_run(self, number, wish):
        return (
            number in self.alive
            and wish.get("rank") in (None, number)
            and wish.get("host") in (None, HOSTS[number][0])
            and wish.get("avoid") != number
            and HOSTS[number][0] not in wish.get("avoid_hosts", ())
            and self.could_hold(number, wish.get("need", wish["amounts"]))
        )

    def idle(self, number):
        return SLOTS[number] - sum(claim.rank == number for claim in self.claims)

    def has_room(self, number, wish):
        cost = wish["amounts"]
        if not self.may_run(number, wish) or not self.idle(number):
            return False
        if any(self.free(number, name) < amount for name, amount in cost.items() if name != "gpu"):
            return False
        left = [self.left_of(uuid) for uuid in self.visible(number)]
        gpu = cost.get("gpu", 0)
        if 0 < gpu < UNIT:
            return any(part >= gpu for part in left)
        return sum(part == UNIT for part in left) * UNIT >= gpu


class Pair:
    """The ledger and its twin, told the same."""

    def __init__(self, updates):
        self.updates = updates
        self.twin = Twin()
        capabilities = [
            Capability(number, host, dict(self.twin.host), tuple(Device(i, uuid) for i, uuid in enumerate(devices)))
            for number, (host, devices) in HOSTS.items()
        ]
        self.ledger = Ledger(capabilities, SLOTS, self.twin.job)
        self.view = ClusterView(self.ledger)

    def claim(self, one, two):
        """Claim for some class wherever the ledger says, or on some rank that fits."""
        wish = CLASSES[one % len(CLASSES)]
        cost = self.request_class(wish)
        fitting = [number for number in HOSTS if self.twin.has_room(number, wish)]
        if fitting:
            best = self.ledger.best(cost).pick(cost, spread=bool(two % 2))
            assert best in fitting
            self.claim_on(best if two % 3 else fitting[two % len(fitting)], wish, cost)

    def claim_on(self, number, wish, cost):
        left = {uuid: self.twin.left_of(uuid) for uuid in self.twin.visible(number)}
        claim = self.ledger.claim(cost, number)
        self.twin.claims.append(claim)
        assert {uuid for uuid, _ in claim.devices} <= left.keys()
        assert all(part <= left[uuid] for uuid, part in claim.devices)
        assert sum(part for _, part in claim.devices) == wish["amounts"].get("gpu", 0)
        own = self.twin.visible(number)
        assert self.ledger.claimed_devices(claim) == tuple((own.index(uuid), uuid) for uuid, _ in claim.devices)

    def release(self, one, two):
        if self.twin.claims:
            self.ledger.release(self.twin.claims.pop(one % len(self.twin.claims)))

    def update(self, one, two):
        number, new = 1 + one % len(HOSTS), self.updates[two % len(self.updates)]
        if number in self.twin.alive:
            self.ledger.update(number, new)
            self.twin.registered[number].update(new)

    def remove(self, one, two):
        number = 1 + one % len(HOSTS)
        for claim in [claim for claim in self.twin.claims if claim.rank == number]:
            self.twin.claims.remove(claim)
            self.ledger.release(claim)
        self.ledger.remove(number)
        self.twin.alive.discard(number)

    def restore(self, one, two):
        self.ledger.restore(1 + one % len(HOSTS))
        self.twin.alive.add(1 + one % len(HOSTS))

    def request_class(self, wish):
        hosts = wish.get("avoid_hosts", frozenset())
        wishes = [wish.get(name) for name in ("amounts", "rank", "host", "avoid")]
        return self.ledger.request_class(*wishes, hosts, wish.get("need"))

    def compare(self):
        check_invariants(self.ledger)
        for wish in CLASSES:
            cost = self.request_class(wish)
            fitting = [number for number in HOSTS if self.twin.has_room(number, wish)]
            assert [number for number in HOSTS if self.view.fits(cost, number)] == fitting, wish
            assert (self.ledger.best(cost) is not None) == bool(fitting), wish
            assert self.ledger.feasibility.could_fit(cost) == any(
                self.twin.may_run(number, wish) for number in HOSTS
            ), wish
            if fitting and not cost.gpu:
                assert self.ledger.best(cost).pick(cost) == fitting[0], wish
        assert self.ledger.idle_slots == sum(self.twin.idle(number) for number in self.twin.alive)


@pytest.mark.parametrize(
    "updates",
    [
        pytest.param(PLAIN_UPDATES, id="plain"),
        pytest.param(DEVICE_UPDATES, id="devices"),
    ],
)
def test_the_ledger_agrees_with_its_dumb_twin_after_any_updates(updates):
    for seed in range(60):
        rng, pair, steps = random.Random(seed), Pair(updates), []
        for _ in range(60):
            steps.append((rng.choice(KINDS), rng.randrange(60), rng.randrange(60)))
            getattr(pair, steps[-1][0])(*steps[-1][1:])
            try:
                pair.compare()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error} after {steps}") from error


# -- ranks that are offered nothing ---------------------------------------------------------------------


def test_a_rank_is_offered_again_once_no_reason_is_left_not_to():
    books = Books(rank(1), rank(2))
    ledger, costs = books.ledger, books.ledger.request_class(amounts(cpu=1))
    ledger.cordon(1)
    ledger.cordon(1, MEMORY)
    for lift in (lambda: ledger.uncordon(1), lambda: ledger.cordon(1), lambda: ledger.uncordon(1, MEMORY)):
        lift()
        check_invariants(ledger)
        assert ledger.best(costs).pick(costs) == 2
    ledger.uncordon(1)
    check_invariants(ledger)
    assert ledger.cordoned == {}
    assert ledger.best(costs).pick(costs) == 1


def test_a_class_that_only_cordoned_ranks_could_hold_is_placed_nowhere():
    ledger = ledger_of(rank(1, cpu=4), rank(2, host="i", cpu=8), rank(3, host="i", cpu=8))
    pinned, large = ledger.request_class(amounts(cpu=1), rank=1), ledger.request_class(amounts(cpu=8))
    ledger.cordon(1)
    ledger.cordon(2)
    assert [ledger.best(cost) is not None for cost in (pinned, large)] == [False, True]
    ledger.cordon(3)
    assert [ledger.best(cost) is not None for cost in (pinned, large)] == [False, False]
    assert [ledger.feasibility.could_fit(cost) for cost in (pinned, large)] == [True, True]
