"""What answers: jobs, files, tables and exports of the stand-in."""
