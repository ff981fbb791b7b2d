"""What a person sees."""

import io

import pytest
from rich.console import Console

from weakseg.pipeline.progress import Silent, Terminal


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def terminal(screen):
    return Terminal(Console(file=screen, force_terminal=True, width=160, color_system=None, highlight=False))


def test_a_bar_shows_count_speed_and_note(terminal, screen):
    with terminal.track("refine", 12) as bar:
        bar.advance(5)
        bar.advance(2, note="loss 0.312")
    shown = screen.getvalue()
    assert "refine" in shown
    assert "7/12" in shown
    assert "images/s" in shown
    assert "loss 0.312" in shown


def test_what_was_done_before_counts_as_done_and_not_as_speed(terminal, screen):
    with terminal.track("refine", 1000, done=900) as bar:
        bar.skip(50)
        assert "images/s" not in screen.getvalue()
        bar.advance(1)
        assert bar.new == 1
    assert "951/1000" in screen.getvalue()


def test_messages_are_shown_as_they_are(terminal, screen):
    terminal.say("[red]maps[/red]: done before :dog:")
    terminal.warn("photos/[old]/a.jpg: odd")
    assert screen.getvalue().splitlines() == ["[red]maps[/red]: done before :dog:", "warning: photos/[old]/a.jpg: odd"]


def test_a_bar_that_breaks_off_lets_the_error_through(terminal):
    def breaks_off():
        with terminal.track("refine", 3) as bar:
            bar.advance()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        breaks_off()


def test_standard_output_stays_free_for_results(capsys):
    Terminal().say("working")
    assert capsys.readouterr().out == ""


def test_silence(capsys):
    quiet = Silent()
    quiet.say("a")
    quiet.warn("b")
    with quiet.track("refine", 3, 1) as bar:
        bar.skip(1)
        bar.advance(1, note="c")
    assert capsys.readouterr() == ("", "")
