"""What a sandbox costs while it only waits."""

import statistics
from collections.abc import Iterator

from bench import tree
from bench.figure import Figure

_BAR_KIB = 3072


def idle() -> Iterator[Figure]:
    """PSS of init and guest together, with as many waiting as a server keeps by default."""
    tree.until(lambda: len(tree.sandboxes()) >= tree.WARM, 10)
    try:
        warm = tree.sandboxes()
        sums = [tree.pss_kib(one.init) + tree.pss_kib(one.guest) for one in warm]
    except PermissionError:
        yield Figure("idle sandbox", "only root can see the memory of one, not measured")
        return
    middle = statistics.median(sums)
    shared = f"median of {len(sums)}; the launcher {tree.pss_kib(tree.launcher()) / 1024:.2f} MiB"
    yield Figure("idle sandbox, PSS", f"{middle / 1024:.2f} MiB", shared, bar="3 MiB", holds=middle <= _BAR_KIB)
