"""How alike the layers of generated U-Nets are, within a network and across networks (paper sections 3.2 and 4.3)."""
