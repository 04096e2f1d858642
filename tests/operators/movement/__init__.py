"""What moves, joins, cuts and looks up."""
