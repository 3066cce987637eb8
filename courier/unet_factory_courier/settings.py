"""What an operator can set for the courier alone."""

from pydantic import Field

from unet_factory.platform.settings import Settings


class CourierSettings(Settings):
    deliveries_per_destination: int = Field(
        default=2, description="Deliveries that one courier makes to one destination at a time."
    )
    delivery_attempts: int = Field(default=500, description="How many times a delivery is tried before it is given up.")
    delivery_backoff_s: float = Field(
        default=5.0, description="Pause after a delivery's first failure; it doubles with each further failure."
    )
    delivery_backoff_max_s: float = Field(default=600.0, description="Longest pause between two attempts.")
    fetch_max_age_s: float = Field(
        default=3600.0, description="A job whose series could not be fetched for this long fails."
    )
    fetch_settle_s: float = Field(
        default=60.0,
        description="If an archive counts more instances of a series than it sends, what came is used after this long.",
    )
