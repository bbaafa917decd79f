"""The thread that gets the next batch ready: same items, same errors, and gone when nobody asks any more."""

import threading

import pytest

from recspect.diagnosis.runners.ahead import ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "recspect-ahead"]


def test_the_same_items_in_the_same_order():
    assert list(ahead(range(50))) == list(range(50))
    assert list(ahead([])) == []
    assert not threads()


def test_what_making_them_raises_is_raised_where_they_are_asked_for():
    def broken():
        yield 1
        raise ValueError("damaged")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(items)
    assert not threads()


def test_an_error_of_the_one_who_asks_ends_the_thread_and_closes_the_source():
    closed = []

    def endless():
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.append(True)

    items = ahead(endless())
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert closed == [True]
    assert not threads()


def test_items_are_made_while_the_one_before_is_worked_on():
    made = threading.Event()

    def two():
        yield 1
        made.set()
        yield 2

    items = ahead(two())
    assert next(items) == 1
    assert made.wait(timeout=30)  # without asking for the second
    assert list(items) == [2]
