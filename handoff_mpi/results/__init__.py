"""Where values rest, and what a run leaves behind."""

from handoff_mpi.results.records import TaskRecord
from handoff_mpi.results.results import Results
from handoff_mpi.results.store import DirectoryStore, MemoryStore, PickleStore, ResultStore, StoreFactory
from handoff_mpi.results.value_file import read_payload, write_payload

__all__ = [
    "DirectoryStore",
    "MemoryStore",
    "PickleStore",
    "ResultStore",
    "Results",
    "StoreFactory",
    "TaskRecord",
    "read_payload",
    "write_payload",
]
