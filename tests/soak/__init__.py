"""Kills, damaged files, wrong calls, full disks and threads in large numbers: `make soak`."""
