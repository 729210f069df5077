"""Processes, fields, solvers and the loop that samples."""
