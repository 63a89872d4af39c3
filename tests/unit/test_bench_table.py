"""The table of the benchmark."""

from __future__ import annotations

from tests.bench.table import Row, absent, line


def test_a_target_is_met_from_its_own_side() -> None:
    assert Row("acquire", 25, 25, "ms").met
    assert not Row("acquire", 25.1, 25, "ms").met
    assert Row("leases", 30, 30, "/s", at_least=True).met
    assert not Row("leases", 29.9, 30, "/s", at_least=True).met


def test_of_several_figures_each_has_to_meet_its_target() -> None:
    assert Row("admit / queue", (0.4, 0.5), (0.45, 0.5), "ms").met
    assert not Row("admit / queue", (0.4, 0.6), (0.45, 0.5), "ms").met


def test_a_row_shows_its_figures_beside_its_targets_and_what_they_are_compared_with() -> None:
    row = Row("admit / queue", (0.4321, 1234.5), (0.45, 2000), "ms", beside="another: 12 ms")
    cells = [cell.strip() for cell in line(row).strip("|").split("|")]
    assert cells == ["admit / queue", "0.432 / 1,234 ms", "≤ 0.45 / 2,000 ms", "yes", "another: 12 ms"]


def test_what_has_no_target_or_could_not_be_measured_is_neither_met_nor_missed() -> None:
    assert Row("acquire", 25, None, "ms").met is None
    cells = [cell.strip() for cell in line(absent("PostgreSQL", "not installed here")).strip("|").split("|")]
    assert cells == ["PostgreSQL", "-", "-", "-", "not installed here"]
