"""The File Driver: everything in the namespace that is not a virtual disk.

The room promises for files what the Volume Driver promises for volumes, because it writes them through the same log. It calls the
Volume Driver (for the log and its way to the backend) and the registry.
"""

from filedriver.driver import FileDriver

__all__ = ["FileDriver"]
