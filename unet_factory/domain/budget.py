"""What a job may cost at most, and what became of that."""

from typing import NamedTuple

from pydantic import Field

from unet_factory.domain.cost_model import Price
from unet_factory.domain.frozen import Frozen


class Budget(NamedTuple):
    """None: no limit."""

    seconds: float | None = None
    peak_bytes: int | None = None

    @property
    def limited(self) -> bool:
        return (self.seconds, self.peak_bytes) != (None, None)

    def allows(self, price: Price) -> bool:
        """Whether it is kept with confidence: by the high figures."""
        return (self.seconds is None or price.seconds_high <= self.seconds) and (
            self.peak_bytes is None or price.peak_bytes_high <= self.peak_bytes
        )


class BudgetReport(Frozen):
    """What was allowed, predicted and spent. The working spacing that was chosen is in the job's ``spacing``.

    ``seconds`` count from when a worker takes the job, without the wait in the queue.
    """

    seconds: float | None = Field(default=None, description="the budget in seconds; null: none")
    bytes: int | None = Field(default=None, description="the budget in bytes; null: none")
    predicted_seconds: float
    predicted_bytes: int
    spent_seconds: float | None = None
    spent_bytes: int | None = None
    kept: bool | None = Field(default=None, description="null until the job has ended")

    @classmethod
    def of(cls, budget: Budget, price: Price) -> "BudgetReport":
        return cls(
            seconds=budget.seconds,
            bytes=budget.peak_bytes,
            predicted_seconds=round(price.seconds, 4),
            predicted_bytes=price.peak_bytes,
        )

    def spent(self, seconds: float, peak_bytes: int) -> "BudgetReport":
        """The same of a job that has ended."""
        in_time = self.seconds is None or seconds <= self.seconds
        in_memory = self.bytes is None or peak_bytes <= self.bytes
        return self.model_copy(
            update={"spent_seconds": round(seconds, 4), "spent_bytes": peak_bytes, "kept": in_time and in_memory}
        )
