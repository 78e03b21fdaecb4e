"""The books of a ledger, derived from its claims alone: for tests, which compare after every step."""

from __future__ import annotations

from handoff_mpi.allocation.ledger import Ledger
from handoff_mpi.allocation.pools import Pool
from handoff_mpi.allocation.reservations import MAX_RESERVATIONS
from handoff_mpi.resources.amounts import UNIT


def check_invariants(ledger: Ledger) -> None:
    """Derive everything from the claims alone and compare.

    Raises:
        AssertionError: the books do not balance.
    """
    taken: dict[int, int] = {}
    pools: dict[int, Pool] = {}
    used: dict[tuple[int, str], int] = {}
    for rank_state in ledger.rank_states.values():
        for claim in filter(None, rank_state.claims):
            for pool, amount in claim.draws:
                taken[id(pool)] = taken.get(id(pool), 0) + amount
            for uuid, amount in claim.devices:
                used[id(claim.device_pool), uuid] = used.get((id(claim.device_pool), uuid), 0) + amount
    for group in ledger.groups:
        pools.update((id(pool), pool) for pool in group.pools.values())
        assert group.idle == sorted(rank for rank, rank_state in group.rank_states.items() if rank_state.offered), group
    offers: dict[int, object] = {}
    for group in ledger.groups:
        offer = len(group.visible), {name: pool.capacity for name, pool in group.pools.items()}
        assert offers.setdefault(group.equipment, offer) == offer, group
    pools.update((id(pool), pool) for pool in ledger.job.values())
    for key, pool in pools.items():
        assert pool.free == pool.capacity - taken.get(key, 0), pool.name
    for group in ledger.groups:
        if group.devices is not None and group.rank_states:
            for uuid in group.visible:
                assert group.devices.free[uuid] == UNIT - used.get((id(group.devices), uuid), 0) >= 0, uuid
    for rank, rank_state in ledger.rank_states.items():
        assert sorted(rank_state.idle) == [slot for slot, claim in enumerate(rank_state.claims) if claim is None], rank
        assert rank_state.is_cordoned == bool(ledger.cordoned.get(rank)), rank
    assert ledger.idle_slots == sum(len(rank_state.offered) for rank_state in ledger.rank_states.values())
    _audit_reservations(ledger)


def _audit_reservations(ledger: Ledger) -> None:
    """Check that each reservation keeps its waiter's need less the claims that its blockers will release."""
    all_ = ledger.reservations.all
    assert len(all_) <= MAX_RESERVATIONS
    claims = [claim for rank_state in ledger.rank_states.values() for claim in rank_state.claims if claim is not None]
    for reservation in all_:
        assert not reservation.is_lifted
        assert set(reservation.blockers) == {claim for claim in claims if reservation.blocks(claim)}
        for key, hold in reservation.holds.items():
            coming = sum(amount for claim in reservation.blockers for each, amount in claim.parts() if each == key)
            assert hold.coming == coming, key
        if reservation.group is not None:
            assert reservation in reservation.group.reservations
            assert reservation.group.could_hold(reservation.cost), reservation
    for group in ledger.groups:
        assert all(reservation in all_ for reservation in group.reservations), group
    for claim in claims:
        assert claim.group is ledger.rank_states[claim.rank].group
