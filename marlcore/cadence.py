"""'Every n env steps', correctly: rollouts step over multiples, so crossings are counted."""


def crossed(every: int, *, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return after // every > before // every
