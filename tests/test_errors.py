import pickle

import pytest

from weakseg.errors import UserError


@pytest.mark.parametrize("parts", [{}, {"where": "a.png"}, {"remedy": "Put it back"}, {"where": "a", "remedy": "b"}])
def test_another_process_gets_the_same_line(parts):
    error = UserError("is missing", **parts)
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.problem, copy.where, copy.remedy) == (error.problem, error.where, error.remedy)
