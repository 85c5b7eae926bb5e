"""The local order book: levels, known range, limits."""

import numpy as np
import pytest

from coinspace._ext.collector_book import BookMarket
from coinspace._ext.collector_ticker import RecentIds
from coinspace._ext.orderbook import OrderBook
from coinspace._ext.sink import Topic
from coinspace._ext.upbit import UpbitParser


def side(*levels: tuple[float, float]) -> np.ndarray:
    return np.array(levels, dtype=np.float64).reshape(-1, 2).T.copy()


def prices(levels: np.ndarray) -> list[float]:
    return [float(price) for price in levels[0]]


def test_levels_come_best_first_in_any_order_of_input() -> None:
    book = OrderBook()
    book.load(side((9, 1), (10, 2), (8, 3)), side((12, 1), (11, 2), (13, 3)))
    assert book.bids.tolist() == [[10, 9, 8], [2, 1, 3]]
    assert book.asks.tolist() == [[11, 12, 13], [2, 1, 3]]
    assert (book.best_bid, book.best_ask) == ((10, 2), (11, 2))


def test_size_zero_deletes_and_an_unknown_level_may_be_deleted() -> None:
    book = OrderBook()
    book.load(side((10, 2), (9, 1)), side((11, 2)))
    book.apply(side((10, 0), (7, 0)), side((11, 5), (12, 1)))
    assert book.bids.tolist() == [[9], [1]]
    assert book.asks.tolist() == [[11, 12], [5, 1]]


def test_empty_sides_have_no_best() -> None:
    book = OrderBook()
    assert book.best_bid is None
    assert book.best_ask is None
    assert book.bids.shape == (2, 0)
    assert not book.is_crossed


def test_crossed_when_the_best_bid_reaches_the_best_ask() -> None:
    book = OrderBook()
    book.load(side((10, 1)), side((11, 1)))
    before = book.is_crossed
    book.apply(side((11, 1)), side())
    assert (before, book.is_crossed) == (False, True)


def test_a_cut_snapshot_is_known_only_as_far_as_it_reaches() -> None:
    book = OrderBook()
    book.load(side((10, 1), (9, 1)), side((11, 1), (12, 1)), requested=2)
    assert list(book.known_range) == [9, 12]
    # a level beyond is kept for the time when the range is known, and not published
    book.apply(side((8, 1)), side((13, 1)))
    assert prices(book.bids) == [10, 9]
    assert prices(book.asks) == [11, 12]
    assert (book.n_bids, book.n_asks) == (3, 3)
    assert prices(book.levels()[0]) == [10, 9, 8]
    # the range does not move with the price
    book.apply(side((10, 0), (9, 0)), side())
    assert prices(book.bids) == []


def test_a_snapshot_with_fewer_levels_than_asked_for_is_the_whole_side() -> None:
    book = OrderBook()
    book.load(side((10, 1)), side((11, 1), (12, 1)), requested=2)
    assert list(book.known_range) == [float("-inf"), 12]
    book.apply(side((1, 1)), side())
    assert prices(book.bids) == [10, 1]


def test_span_is_the_nearer_known_edge_as_a_share_of_the_mid() -> None:
    book = OrderBook()
    book.load(side((100, 1), (99, 1)), side((102, 1), (105, 1)), requested=2)
    assert book.span == pytest.approx(2 / 101)
    book.clear()
    assert book.span == float("inf")


def test_an_empty_side_of_a_cut_book_has_no_span() -> None:
    book = OrderBook()
    book.load(side((100, 1), (99, 1)), side((102, 1), (105, 1)), requested=2)
    book.apply(side((100, 0), (99, 0)), side())
    assert book.span == 0


def test_levels_beyond_the_capacity_are_dropped_at_the_far_end_and_narrow_the_known_range() -> None:
    book = OrderBook(3)
    book.load(side((10, 1), (9, 1), (8, 1)), side())
    assert book.known_range[0] == float("-inf")
    book.apply(side((11, 1)), side())
    assert prices(book.bids) == [11, 10, 9]
    assert book.known_range[0] == 9
    book.apply(side((5, 1)), side())
    assert prices(book.bids) == [11, 10, 9]
    assert book.levels_dropped == 2


def test_a_book_of_one_level_keeps_the_best() -> None:
    book = OrderBook(1)
    for price in (3.0, 5.0, 4.0):
        book.apply(side((price, 1)), side())
    assert (book.best_bid, book.levels_dropped) == ((5, 1), 2)


def test_many_inserts_at_one_end_keep_the_order() -> None:
    book = OrderBook(64)
    for step in range(1000):
        book.apply(side((1000.0 + step, 1), (1000.0 + step - 32, 0)), side((1000.0 - step, 1)))
    assert prices(book.bids) == [1999.0 - i for i in range(32)]
    assert prices(book.asks) == [1.0 + i for i in range(64)]


def test_wrong_shapes_are_refused() -> None:
    book = OrderBook()
    with pytest.raises(ValueError, match="shape"):
        book.apply(np.zeros((3, 1)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="capacity"):
        OrderBook(0)


@pytest.mark.parametrize("capacity", [0, -1, (1 << 24) + 1, 1 << 60, (1 << 63) - 1])
def test_a_capacity_whose_size_in_bytes_overflows_is_refused(capacity: int) -> None:
    for kind in (OrderBook, UpbitParser):
        with pytest.raises(ValueError, match="capacity: expected 1 to"):
            kind(capacity)


@pytest.mark.parametrize("count", [1 << 57, 1 << 60, 1 << 62, (1 << 63) - 1])
def test_a_depth_without_memory_is_refused(count: int) -> None:
    topic = Topic(b"orderbook.upbit.BTC/KRW.")
    with pytest.raises(MemoryError):
        RecentIds(count)
    with pytest.raises(MemoryError):
        BookMarket(0, "KRW-BTC", "BTC/KRW", topic, count)
