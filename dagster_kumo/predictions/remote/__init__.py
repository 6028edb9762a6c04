"""The files of a live output: where they are, and how they are fetched."""
