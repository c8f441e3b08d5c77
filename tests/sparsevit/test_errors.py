"""The error tree: codes, and errors that survive a trip between processes."""

from __future__ import annotations

import pickle

from sparsevit import errors
from sparsevit.errors import BudgetUnreachable, SparseViTError


def tree() -> list[type[SparseViTError]]:
    found = vars(errors).values()
    return [e for e in found if isinstance(e, type) and issubclass(e, SparseViTError)]


def test_every_error_states_its_code_in_the_module_docstring():
    for error in tree():
        if error is not SparseViTError:
            line = next(x for x in errors.__doc__.splitlines() if error.__name__ in x)
            assert error.code in line


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(BudgetUnreachable("too small", nearest_ms=7.5)))
    assert (str(error), error.nearest_ms) == ("too small", 7.5)
