"""How benches measure: processor seconds of one thread, which do not depend on how busy the machine is."""

import time


def seconds(call):
    """(processor seconds, what the call gave)."""
    start = time.process_time()
    out = call()
    return time.process_time() - start, out
