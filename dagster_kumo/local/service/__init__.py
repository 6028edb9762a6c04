"""The service behind the stand-in's API: jobs, files, tables and exports."""
