"""What a run found and did, as data: rows, totals, reasons."""
