"""What has been handed over, and for how long clients had to wait. Pure."""

from __future__ import annotations

PAUSES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # upper bounds of the buckets; one more for what is longer
STEALS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # the same, of what was taken over from dead nodes


class Movements:
    """Of this node since its start; of one that is alone, zeros."""

    def __init__(self) -> None:
        self.taken_over = 0
        self.stolen = {cause: [0] * (len(STEALS_S) + 1) for cause in ("automatic", "command")}  # by cause and bucket
        self.stolen_sum_s = dict.fromkeys(self.stolen, 0.0)
        self.stolen_with_loss = 0
        self.given_up = 0  # after clients had been made to wait
        self.pauses = [0] * (len(PAUSES_S) + 1)  # by bucket
        self.pause_sum_s = 0.0
        self.forwarded = 0  # requests of this node to owners elsewhere
        self.executed = 0  # requests of other nodes here

    def stole(self, cause: str, took_s: float, *, lost: bool) -> None:
        """An object of a dead node is served here; it took so long from the beginning of the attempt."""
        self.stolen[cause][next((at for at, bound in enumerate(STEALS_S) if took_s <= bound), len(STEALS_S))] += 1
        self.stolen_sum_s[cause] += took_s
        self.stolen_with_loss += lost

    def handed_over(self, pause_s: float) -> None:
        """An object has gone to another node; clients waited for so long here."""
        self.pauses[next((at for at, bound in enumerate(PAUSES_S) if pause_s <= bound), len(PAUSES_S))] += 1
        self.pause_sum_s += pause_s
