"""Pure functions from stored results to figures, tables and the HTML report."""
