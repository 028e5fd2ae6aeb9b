"""`python -m preemptc` is `preemptc`."""

from preemptc.start import main

if __name__ == "__main__":
    main()
