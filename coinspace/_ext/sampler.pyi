from collections.abc import Callable

SUPPORTED: bool

def sample(
    run: Callable[[], object], interval_us: int = 500
) -> tuple[list[tuple[int, ...]], int]: ...
def count_allocations(run: Callable[[], object]) -> int: ...
