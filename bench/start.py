"""Where `make demo` starts: importing takes a while, and Ctrl-C then is no bug either."""

import sys

from preempt_runtime.start import quit_on_interrupt, raise_on_interrupt


def main() -> int:
    """Exit code of the demo."""
    quit_on_interrupt("demo")
    from bench.demo import main as run_demo
    from preemptc.interruption import end_on_interrupt

    raise_on_interrupt()
    end_on_interrupt()
    return run_demo()


if __name__ == "__main__":
    sys.exit(main())
