"""Handles of the CUDA driver: given back once, from any thread, without raising."""

import logging
from abc import abstractmethod
from types import TracebackType
from typing import Any

from preempt_runtime.backends.cuda_driver import call, raw_call
from preempt_runtime.errors import DeviceError

_log = logging.getLogger("preempt_runtime.backends.cuda")


class Handle:
    """Something of the driver's that must be given back, once, from any thread."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._is_open = True
        self._home = call("cuCtxGetCurrent")

    @abstractmethod
    def _destroy(self) -> None: ...

    def close(self) -> None:
        """Give it back; without effect the second time."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            if not int(call("cuCtxGetCurrent")):
                raw_call("cuCtxSetCurrent", self._home)
            self._destroy()
        except DeviceError as err:
            _log.warning("closing a %s: %s", type(self).__name__, err)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
