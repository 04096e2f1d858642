"""The report as one self-contained HTML page: the network drawn to scale, with what left it shown in place."""
