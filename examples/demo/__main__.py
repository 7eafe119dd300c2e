"""`python -m examples.demo`, inside the sandbox; `make demo` does the set-up and then this."""

import os
import time

from examples.demo.story import Demo

if __name__ == "__main__":
    # The clock of the person begins with `make demo`, before the set-up.
    already = time.time() - float(os.environ.get("DEMO_STARTED", time.time()))
    Demo(time.monotonic() - already).run()
