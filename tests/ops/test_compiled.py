"""Compiled loops are kept on disk where that is possible."""

from numba import njit

from weakseg.ops import compiled


def test_loops_are_compiled_anew_where_no_folder_can_be_written(monkeypatch):
    kept = []

    def without_folder(**options):
        kept.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled, "njit", without_folder)
    assert compiled.compiled(lambda x: x + 1)(2) == 3
    assert kept == [True, False]
