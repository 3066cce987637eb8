"""The arithmetic that networks run in."""

from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""``bfloat16``: convolutions in bfloat16 with sums in float32; weights, blending and arg max stay float32."""
