"""A command line called in the test's own process."""

from typer.testing import CliRunner


def command(app, *words):
    """How the command ended and what it wrote; its errors are raised, its exit code is not."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
