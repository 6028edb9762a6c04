"""What users define: assets, exports, and everything of one model in one call."""
