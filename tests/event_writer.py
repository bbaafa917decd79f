"""Writes events until it is killed, and says of each batch when the store has acknowledged it. Run by tests and the bench.

    python event_writer.py STORE FIRST [BATCH]
"""

import sys
from datetime import UTC, datetime

from recspect.events.reject import take
from recspect.events.store import open_store


def main():
    where, first, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 50
    store = open_store(where)
    print("ready", flush=True)  # noqa: T201
    number = max(first - 200, 0)  # what may have been acknowledged before the last kill is sent again
    while True:
        now = datetime.now(UTC)
        batch = [take({"event_id": f"e-{n}", "kind": "click", "user": f"u-{n % 97}", "item": n % 1009, "time": now}, received=now, origin="writer")
                 for n in range(number, number + size)]
        store.append(batch)
        number += size
        print(number, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
