"""Mixed traffic of many clients on one machine: what answers cost, and whether memory and descriptors stay flat."""
