"""Speed and memory against the official SDK, on the same server in the same run: `make bench`."""
