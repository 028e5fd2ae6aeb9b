"""Where `preemptc` starts: importing takes a while, and Ctrl-C then is no bug either."""

from preempt_runtime.start import quit_on_interrupt, raise_on_interrupt


def main() -> None:
    """Run the command line and leave with its exit code."""
    quit_on_interrupt("preemptc")
    from preemptc.cli import main as run_command_line
    from preemptc.interruption import end_on_interrupt

    raise_on_interrupt()
    end_on_interrupt()
    run_command_line(prog_name="preemptc")
