"""One shard that is being written, by several workers and in any order."""

import threading

from streamconv.files import PAGE, Files, aligned_buffer, page_ceil, page_floor


class OpenShard:
    """A shard that is being written. Pages that two runs share are put together in memory."""

    def __init__(self, files: Files, fd: int, size: int) -> None:
        self._files = files
        self._fd = fd
        self._size = size
        self._missing = size
        self._shared: dict[int, tuple[memoryview, int]] = {}
        self._lock = threading.Lock()

    def write(self, offset: int, data: memoryview) -> bool:
        """Write a run; true where nothing is missing any more."""
        end = offset + len(data)
        first, last = page_ceil(offset), page_floor(end)
        if first >= last and page_floor(offset) == page_floor(end - 1):
            self._share(offset, data)
        else:
            self._share(offset, data[: first - offset])
            if first < last:
                self._files.write(self._fd, data[first - offset : last - offset], first)
            self._share(last, data[last - offset :])
        with self._lock:
            self._missing -= len(data)
            return self._missing == 0

    def _share(self, offset: int, data: memoryview) -> None:
        """Put bytes of one page with the others of that page, and write it when it is full."""
        if not data:
            return
        page = page_floor(offset)
        with self._lock:
            buffer, filled = self._shared.get(page) or (aligned_buffer(PAGE), 0)
            buffer[offset - page : offset - page + len(data)] = data
            filled += len(data)
            self._shared[page] = buffer, filled
            if filled < min(PAGE, self._size - page):
                return
            del self._shared[page]
        self._files.write(self._fd, buffer, page)

    def finish(self) -> None:
        """Make the shard durable at its true size."""
        try:
            self._files.finish(self._fd, self._size)
        finally:
            self.close()

    def close(self) -> None:
        self._files.close(self._fd)
