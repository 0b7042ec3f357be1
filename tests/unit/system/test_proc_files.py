"""Files in /proc hold names of any encoding: of processes and groups."""

import os
import subprocess
import sys

from streamconv.system import resources
from streamconv.system.resources import start_time


def test_a_process_whose_name_is_no_text() -> None:
    """Its start time and this process's memory are read."""
    script = (
        "import time; open('/proc/self/comm', 'wb').write(b'\\xff) \\xfe'); print(1, flush=True)"
    )
    script += "; from streamconv.system.resources import resident_bytes"
    script += "; print(resident_bytes(), flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        own = start_time(os.getpid())
        found = start_time(process.pid)
        assert own is not None
        assert found is not None
        assert int(found) >= int(own)
        assert int(process.stdout.readline()) > 2**20
    finally:
        process.kill()
        process.communicate()


def test_the_files_of_this_process() -> None:
    assert resources.peak_bytes() >= resources.resident_bytes() * 0.5 > 2**20
