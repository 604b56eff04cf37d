"""Keep the tables, the migrations and the settings of the index honest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select

from api.errors import DatabaseError
from api.index import clear, migrate, open_engine, reading
from api.tables import metadata, tokens
from marketplace.errors import InputError


def test_the_migrations_make_exactly_the_tables(new_database: Callable[[], str]) -> None:
    engine = open_engine(new_database())
    migrate(engine)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_an_index_of_an_unknown_version_can_be_built_again(new_database: Callable[[], str]) -> None:
    url = new_database()
    engine = open_engine(url)
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'later'")
    with pytest.raises(InputError, match="tribute index rebuild"):
        migrate(engine)
    clear(url)
    migrate(engine)
    engine.dispose()


def test_sqlite_writes_ahead_so_that_readers_do_not_wait(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'deep' / 'index.db'}")
    migrate(engine)
    with engine.connect() as writing, engine.connect() as reading:
        assert writing.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        writing.execute(insert(tokens).values(address="0x00", symbol="T", decimals=2))
        assert reading.execute(select(tokens)).all() == []
        writing.commit()
    engine.dispose()


def test_a_reader_sees_one_state_while_others_write(new_database: Callable[[], str]) -> None:
    engine = open_engine(new_database())
    migrate(engine)
    with reading(engine) as before:
        assert before.execute(select(tokens)).all() == []
        with engine.begin() as writing:
            writing.execute(insert(tokens).values(address="0x00", symbol="T", decimals=2))
        assert before.execute(select(tokens)).all() == []
    with reading(engine) as after:
        assert len(after.execute(select(tokens)).all()) == 1
    engine.dispose()


def test_a_file_that_is_no_database_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Sir or Madam, " * 100)
    for name, why in (("letter", "file is not a database"), ("", "unable to open database file")):
        with pytest.raises(DatabaseError, match=rf"{tmp_path / name} cannot be opened \({why}\)"):
            open_engine(f"sqlite:///{tmp_path / name}")


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/d", "geheim", "oracle://u:geheim@h/d"])
def test_other_databases_are_refused_without_repeating_passwords(url: str) -> None:
    with pytest.raises(InputError) as refused:
        open_engine(url)
    assert "sqlite" in str(refused.value) and "geheim" not in str(refused.value)
