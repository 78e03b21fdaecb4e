"""The books of a ledger, derived from its claims alone: for tests, which compare after every step."""

from __future__ import annotations

from typing import Any

from handoff_mpi.allocation.ledger import Ledger
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.reservations import MAX_RESERVATIONS
from handoff_mpi.resources.amounts import UNIT


def audit(ledger: Ledger) -> None:
    """Derive everything from the claims alone and compare.

    Raises:
        AssertionError: the books do not balance.
    """
    taken: dict[int, int] = {}
    pools: dict[int, Pool] = {}
    used: dict[tuple[int, str], int] = {}
    for seat in ledger.seats.values():
        for claim in filter(None, seat.claims):
            for pool, amount in claim.bill:
                taken[id(pool)] = taken.get(id(pool), 0) + amount
            for uuid, amount in claim.devices:
                used[id(claim.device_pool), uuid] = used.get((id(claim.device_pool), uuid), 0) + amount
    for bay in ledger.bays:
        pools.update((id(pool), pool) for pool in bay.pools.values())
        assert bay.idle == sorted(rank for rank, seat in bay.seats.items() if seat.offered), bay
    offers: dict[int, Any] = {}
    for bay in ledger.bays:
        offer = len(bay.visible), {name: pool.capacity for name, pool in bay.pools.items()}
        assert offers.setdefault(bay.equipment, offer) == offer, bay
    pools.update((id(pool), pool) for pool in ledger.job.values())
    for key, pool in pools.items():
        assert pool.free == pool.capacity - taken.get(key, 0), pool.name
    for bay in ledger.bays:
        if bay.devices is not None and bay.seats:
            for uuid in bay.visible:
                assert bay.devices.free[uuid] == UNIT - used.get((id(bay.devices), uuid), 0) >= 0, uuid
    for rank, seat in ledger.seats.items():
        assert sorted(seat.idle) == [slot for slot, claim in enumerate(seat.claims) if claim is None], rank
        assert seat.is_withheld == bool(ledger.withheld.get(rank)), rank
    assert ledger.idle_slots == sum(len(seat.offered) for seat in ledger.seats.values())
    _audit_reservations(ledger)


def _audit_reservations(ledger: Ledger) -> None:
    """What is kept is what each waiter needs less what its blockers will give back, in a group that could hold it."""
    all_ = ledger.reservations.all
    assert len(all_) <= MAX_RESERVATIONS
    claims = [claim for seat in ledger.seats.values() for claim in seat.claims if claim is not None]
    for reservation in all_:
        assert not reservation.is_lifted
        assert set(reservation.blockers) == {claim for claim in claims if reservation.blocks(claim)}
        for key, hold in reservation.holds.items():
            coming = sum(amount for claim in reservation.blockers for each, amount in claim.parts() if each == key)
            assert hold.coming == coming, key
        if reservation.bay is not None:
            assert reservation in reservation.bay.reservations
            assert reservation.bay.could_hold(reservation.cost), reservation
    for bay in ledger.bays:
        assert all(reservation in all_ for reservation in bay.reservations), bay
    for claim in claims:
        assert claim.bay is ledger.seats[claim.rank].bay
