"""Which channels stand or fall together: classes of elements, constraints between them, reasons to keep one."""
