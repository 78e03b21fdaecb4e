"""Colours that people with any kind of colour vision tell apart, and that black text can be read on.

They are the "light" qualitative scheme of Paul Tol, "Colour Schemes", SRON/EPS/TN/09-002 (2021), which is made to fill
cells with text. There are fewer colours than ranks may be, so a colour never stands alone: the rank is written too.
"""

from __future__ import annotations

RANK_COLOURS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00")
#: Of what ran on no rank, or on too many.
NEUTRAL = "#DDDDDD"
UNFILLED = "#FFFFFF"
LINE, FAILED_LINE = "#444444", "#AA0000"


def rank_colour(rank: int) -> int:
    """Return the number of the colour of a rank: ranks that differ by the number of colours share one."""
    return (rank - 1) % len(RANK_COLOURS)
