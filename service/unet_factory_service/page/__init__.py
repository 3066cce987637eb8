"""The page at ``/`` for people with a browser: static files that talk to the same API as everybody else."""
