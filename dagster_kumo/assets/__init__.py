"""What users define: assets, exports, and everything for one model in one call."""
