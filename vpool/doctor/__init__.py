"""Finds out what this machine and the backend can do, before they are trusted with disks, and says what follows from it.

It promises to leave nothing behind: what it writes has scratch names that it removes, also when it is interrupted. Figures are
measured, in a few seconds each, while whatever else the machine does goes on. It calls the backend and looks at DIR.
"""

from vpool.doctor.examining import examine
from vpool.doctor.report import Check, Report

__all__ = ["Check", "Report", "examine"]
