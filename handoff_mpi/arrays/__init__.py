"""Arrays of like calls: their elements, their values, and sets of their indices, none expanded into an object a call.

An array is one task with many elements. Rank 0 leases *intervals* of indices to ranks, sends the *piece* of each input
that a lease needs, and gets back a *column* of values. Nothing here takes a step of Python an element where the
elements are numbers, or lie in memory of numpy: sets of indices hold intervals, inputs are cut by arithmetic, and
columns are packed and unpacked by C code.

    intervals.py  sets of indices
    columns.py    many values as one tuple of bytes, for messages and the journal
    inputs.py     what a user maps over: cut into pieces for ranks, compared with an earlier launch
    digests.py    whether elements are the same as in an earlier launch
    values.py     the values of an array that rank 0 has

These modules are pure, and know neither tasks nor ranks.
"""
