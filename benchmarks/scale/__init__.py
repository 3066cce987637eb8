"""How a large installation would do: what a job costs here, measured, and a simulation that spends it."""
