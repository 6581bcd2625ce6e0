"""The bugs that mutate.py plants."""
from typing import NamedTuple, Optional

# Which test program covers an area, and the files that are its own: those are instrumented in the run of race.c.
FAMILIES = {
    'linear': {'test': 'linear', 'units': ['linear', 'gemm_rows', 'gemm_tile', 'lt', 'weight']},
    'norm': {'test': 'step', 'units': ['norm', 'elementwise']},
    'step': {'test': 'step', 'units': ['step', 'record', 'backend']},
    'attn': {'test': 'attn', 'units': ['kv', 'qkv', 'attn', 'attn_mma', 'attn_plain']},
    'sample': {'test': 'sample', 'units': ['sample', 'sample_draw', 'sample_score']},
}


class Bug(NamedTuple):
    family: str
    name: str
    file: str
    old: str
    new: str
    case: Optional[str] = None  # of the test program; None: all
    units: tuple = ()  # of a header: the files to build again
    race: bool = False  # no schedule can show it: only race.c runs
    quick: bool = False


BUGS = []
