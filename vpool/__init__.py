"""The front door: command line, the daemon that wires everything, settings, and the errors that all rooms share.

Only ``vpool.errors`` may be used by other rooms. This room alone knows everybody.
"""
