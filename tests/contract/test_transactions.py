"""What a transaction writes, though it is put off: it is read by itself, committed whole, or gone."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from leasehold.errors import Unavailable
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from tests.contract.store_lab import NINE, Lab

_ALERT = insert(t.alerts).inline()
_DETAILS = select(t.alerts.c.detail).order_by(t.alerts.c.key)


def _alert(key: str, detail: str | None = "seen") -> dict[str, object]:
    return {"key": key, "since": NINE, "detail": detail}


async def _kept(lab: Lab) -> list[str]:
    return await lab.store.database.read(lambda c: list(c.execute(_DETAILS).scalars()))


class TestWritesThatArePutOff:
    async def test_a_read_of_the_same_transaction_sees_them_in_their_order(self, lab: Lab) -> None:
        def work(tx: Tx) -> list[str]:
            tx.write(_ALERT, [_alert("a"), _alert("b")])
            tx.write(update(t.alerts).where(t.alerts.c.key == "a"), {"detail": "seen again"})
            return list(tx.execute(_DETAILS).scalars())

        seen, _ = await lab.store.database.write(work)
        assert seen == ["seen again", "seen"] == await _kept(lab)

    async def test_one_that_fails_undoes_all_of_the_transaction(self, lab: Lab) -> None:
        def work(tx: Tx) -> None:
            tx.write(_ALERT, _alert("a"))
            tx.write(_ALERT, _alert("b", None))
            tx.write(_ALERT, _alert("c"))

        with pytest.raises(Unavailable):
            await lab.store.database.write(work)
        assert await _kept(lab) == []

    async def test_the_next_transaction_is_not_hurt_by_one_that_failed(self, lab: Lab) -> None:
        with pytest.raises(Unavailable):
            await lab.store.database.write(lambda tx: tx.write(_ALERT, _alert("a", None)))
        await lab.store.database.write(lambda tx: tx.write(_ALERT, _alert("a")))
        assert await _kept(lab) == ["seen"]

    async def test_a_transaction_that_raises_writes_none_of_them(self, lab: Lab) -> None:
        def work(tx: Tx) -> None:
            tx.write(_ALERT, _alert("a"))
            raise LookupError

        with pytest.raises(LookupError):
            await lab.store.database.write(work)
        assert await _kept(lab) == []

    async def test_what_is_rolled_back_to_a_savepoint_is_not_written_later(self, lab: Lab) -> None:
        def work(tx: Tx) -> None:
            tx.write(_ALERT, _alert("a"))
            with tx.savepoint() as savepoint:
                tx.write(_ALERT, _alert("b"))
                tx.later(_ALERT, _alert("c"))
                savepoint.rollback()
            tx.write(_ALERT, _alert("d", "after"))

        await lab.store.database.write(work)
        assert await _kept(lab) == ["seen", "after"]
