"""``make bench``: the rows of the design's table of targets, each against a reference measured in the same run.

A row alternates with its reference, so that what else the machine does meets both; medians and their ratio count. The room
starts the real daemon and the real tools (fio); it is called by nobody.
"""
