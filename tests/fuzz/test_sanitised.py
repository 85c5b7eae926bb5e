"""Bounded runs on the address-sanitised builds: of the fuzzer, and of tests of all modules."""

from itertools import pairwise

import pytest

from tests.fuzz import sanitised

SECONDS = 6


@pytest.mark.timeout(400)
def test_no_read_outside_the_frame_and_no_difference_to_the_twin() -> None:
    if sanitised.runtime() is None:
        pytest.skip("gcc's libasan.so is not installed")
    sanitised.build()
    done = sanitised.run("--seconds", str(SECONDS), timeout_s=SECONDS + 120)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    words = done.stdout.split()
    assert int(words[0]) > 5000
    # the fuzzer is guided by edges, and has seen some
    found = {name.rstrip(","): int(count) for count, name in pairwise(words) if count.isdigit()}
    assert found["edges"] > 500
    assert found["frames"] > 50


@pytest.mark.timeout(400)
def test_the_sanitiser_reports_a_read_beyond_the_frame() -> None:
    if sanitised.runtime() is None:
        pytest.skip("gcc's libasan.so is not installed")
    sanitised.build()
    done = sanitised.run("--overread", timeout_s=120)
    assert done.returncode == 99
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.timeout(900)
def test_every_module_stays_within_its_memory() -> None:
    if sanitised.runtime() is None:
        pytest.skip("gcc's libasan.so is not installed")
    sanitised.build_all()
    done = sanitised.run(
        *("--short", "--inputs", "200"),
        timeout_s=800,
        folder=sanitised.WHOLE,
        module="tests.fuzz.whole",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert " passed" in done.stdout
