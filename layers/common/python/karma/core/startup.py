"""Keeps the garbage collector out of a cold start: what is imported stays, so looking for garbage is 5-30 % of it.

    from karma.core import startup  # before everything else

    # isort: split
    import ...

    startup.over()

Importing this module stops the collector.
"""

import gc

gc.disable()


def over() -> None:
    """Let the collector run again, without what there is by now."""
    gc.freeze()
    gc.enable()
