"""Fingerprints of functions: is a value that was kept still the value of the function that made it?

A function whose fingerprint is still the same is taken to have the same value. What goes into it:

- The function's id, ``version=``, ``argument_inclusion``, and Python's major and minor version.
- Its code: bytecode and constants, to any depth of nested functions. File names, line numbers, comments and
  docstrings do not count, nor do annotations of functions. The name of a function does, its qualified name does not.
- What its code is bound to: defaults, keyword defaults, closure, attributes set on the function, what it wraps.
- The globals its code reads, by value: helpers and classes (methods, attributes, bases) likewise, recursively;
  constants and objects as below. ``__name__``, ``__file__`` and their like count by name alone.
- Its ``cwd`` and ``env``, as they were given.
- Its constants (``extra_args``, ``kwargs``): by type and value. Sets have no order; lists, tuples and dicts have. numpy
  arrays count by dtype, shape and content, other objects by what they give to pickle. A handle stands for its function.
- The fingerprints of its inputs, inline functions among them, and the codes of an :class:`Argument`.
- Of an array: where its elements are put, but neither the elements nor how many there are. Elements are compared with
  those of earlier launches one by one (:mod:`handoff_mpi.arrays.inputs`).

All of that holds for what travels by value: what the script (``__main__``, ``dag.py``) defines. What is imported counts

- from the standard library, by name, with Python's version;
- from site-packages, by name, with the name and version of its distribution; handoff_mpi itself too, wherever it is;
- from anywhere else, by the code of the *whole file* that defines it (comments and docstrings left out, extension
  modules by their bytes) and of the files which that one imports, inside functions too. Not by the one function:
  such a module is imported whole on the ranks, and what it does on import, what it looks up by a computed name and
  the state it builds up would be missed. Editing a module therefore recomputes all that relies on it. A package that is
  referred to as a whole (``import package``) counts with all of its modules that are loaded.

What does not go in: cost, retries, timeout, node, priority and type of the function; where the script lies and what it
is called; what ``setup(rank)`` puts into the globals; data that a function reads from files; what loggers, weak
dictionaries, locks and thread-local objects hold; whether equal objects are one object; imports and globals by a
computed name; changes made to imported modules at run time, and to distributions that keep their version (install one's
own as editable, or raise it).

What has no such canonical form (an open file, a socket, an object that refuses to be pickled) has no fingerprint, nor
has anything that depends on it: :attr:`Fingerprints.notes` says why, and such functions run again.

No code of users is run but what pickling an object runs. Exceptions of objects do not escape. The same script
gives the same fingerprints in any process, with any PYTHONHASHSEED, from any directory and under any name.
"""

from handoff_mpi.dag.fingerprint.elements import ObjectDigests
from handoff_mpi.dag.fingerprint.reading import Fingerprints, fingerprints

__all__ = ["Fingerprints", "ObjectDigests", "fingerprints"]
