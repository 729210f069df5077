"""The progress display: truthful rates and times, few lines in a log, a bar on a terminal."""

from __future__ import annotations

import io
import signal

import pytest

from diffcore.cli.progress import Progress
from diffcore.run.interrupt import Interrupt


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(steps: range, *, total: int, done: int = 0, each: float = 0.125, every: float = 5.0) -> list[str]:
    """The lines written while `steps` are done, one every `each` seconds."""
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, every=every, clock=clock)
    progress.start(total, "training x", done)
    for step in steps:
        clock.now += each
        progress.update(step, loss=1 / step)
    progress.close()
    return stream.getvalue().splitlines()


def test_a_log_has_one_line_every_few_seconds_and_one_at_the_end():
    lines = played(range(1, 131), total=130)  # 16 seconds
    assert len(lines) == 4
    assert lines[0] == "training x 40/130, 8/s, loss 0.025, 0:11 left"
    assert lines[-1] == "training x 130/130, 8/s, loss 0.007692"


def test_the_rate_of_a_resumed_run_counts_only_its_own_steps():
    (first, *_) = played(range(901, 1001), total=1000, done=900, each=0.125)
    assert first == "training x 940/1000, 8/s, loss 0.001064, 0:08 left"


def test_hours_are_shown_as_such():
    (first, *_) = played(range(1, 3), total=1000, each=10.0)
    assert first.endswith("2:46:30 left")


def test_a_run_that_ends_early_says_where():
    assert played(range(1, 4), total=100)[-1].startswith("training x 3/100")


def test_nothing_done_says_nothing():
    assert played(range(0), total=10) == []


def test_it_can_be_started_again_and_closed_twice():
    stream = io.StringIO()
    progress = Progress(stream)
    for label in ("one", "two"):
        progress.start(1, label)
        progress.update(1)
    progress.close()
    progress.close()
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["one", "two"]


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    progress = Progress(stream)
    progress.start(10, "training x")
    for step in range(1, 11):
        progress.update(step, loss=0.25)
    progress.close()
    last = stream.getvalue().split("\r")[-1]
    assert "10/10" in last
    assert "loss 0.25" in last
    assert "\n" in stream.getvalue()


def play(finished: list[int], *, presses: int, error: Exception | None = None) -> None:
    """Three steps; Ctrl-C is pressed inside the second."""
    with Interrupt() as interrupt:
        progress = Progress(io.StringIO(), between=interrupt.check)
        progress.start(3, "training x")
        for step in (1, 2, 3):
            for _ in range(presses if step == 2 else 0):
                signal.raise_signal(signal.SIGINT)
            finished.append(step)
            if error is not None:
                raise error
            progress.update(step)


@pytest.mark.parametrize(("presses", "done"), [(1, [1, 2]), (2, [1])])
def test_the_first_control_c_waits_for_the_end_of_the_step_and_the_second_does_not(presses: int, done: list[int]):
    finished, before = list[int](), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        play(finished, presses=presses)
    assert finished == done
    assert signal.getsignal(signal.SIGINT) is before


def press_after_the_last_step() -> None:
    with Interrupt():
        signal.raise_signal(signal.SIGINT)


def test_a_control_c_after_the_last_step_is_not_lost():
    with pytest.raises(KeyboardInterrupt):
        press_after_the_last_step()


def test_an_error_is_not_replaced_by_a_control_c():
    with pytest.raises(ValueError, match="the error"):
        play([], presses=1, error=ValueError("the error"))
