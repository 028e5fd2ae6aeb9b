"""`python -m preemptc` is `preemptc`."""

from preemptc.cli import main

if __name__ == "__main__":
    main(prog_name="preemptc")
