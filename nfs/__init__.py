"""The NFSv3 front end. It is not there yet: this room is kept for it.

It will speak RFC 1813 on one side and the object router on the other, as ``fuse`` does.
"""
